#compdef cesbr
# Completion of cesbr in zsh: put it into a folder of $fpath as `_cesbr`, or source it after compinit.
_cesbr() {
    local line kind word
    local -a answer folders folders_shown others others_shown
    answer=("${(@f)$("${(Q)words[1]}" __complete zsh "${(@Q)words[2,CURRENT-1]}" \
        "${(Q)PREFIX}" 2>/dev/null </dev/null)}")
    kind=$answer[1]
    case $kind in
        note) _message -r "cesbr: ${answer[2]//\%/%%}"; return ;;
        files) compset -P '--*='; _files; return ;;
        folders) compset -P '--*='; _files -/; return ;;
    esac
    for line in "${(@)answer[2,-1]}"; do
        word=${line%%$'\t'*}
        if [[ $kind == paths ]]; then
            # A menu shows the last name of a path.
            if [[ $word == */ ]]; then
                folders+=("$word") folders_shown+=("${${word%/}##*/}/")
            else
                others+=("$word") others_shown+=("${word##*/}")
            fi
        else
            others+=("$word")
            if [[ $line == *$'\t'* ]]; then
                others_shown+=("${(r:24:)word} ${line#*$'\t'}")
            else
                others_shown+=("$word")
            fi
        fi
    done
    # -U: what fits was decided already.
    (( $#folders )) && compadd -U -V folders -S '' -d folders_shown -a folders
    if (( $#others )); then
        if [[ $kind == paths ]]; then
            compadd -U -V names -d others_shown -a others
        else
            compadd -U -V words -l -d others_shown -a others
        fi
    fi
}
if [[ $funcstack[1] == _cesbr ]]; then
    _cesbr "$@"
else
    compdef _cesbr cesbr
fi
