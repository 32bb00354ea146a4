# Completion of cesbr in bash: source it, or put it into the folder of bash-completion as `cesbr`.
_cesbr() {
    local answer word
    COMPREPLY=()
    mapfile -t answer < <("$1" __complete bash "${COMP_LINE:0:COMP_POINT}" "$2" 2>/dev/null </dev/null)
    case ${answer[0]-} in
        files) compopt -o default ;;
        folders) compopt -o dirnames ;;
        paths) compopt -o filenames ;;
        note)
            # bash shows no messages: print it, and then the prompt and the line again.
            word=$PS1
            [[ ${BASH_VERSINFO[0]}${BASH_VERSINFO[1]} -lt 44 ]] || word=${PS1@P}
            printf '\ncesbr: %s\n%s%s' "${answer[1]}" "${word//[$'\001\002']/}" "$COMP_LINE" >&2
            return ;;
    esac
    for word in "${answer[@]:1}"; do
        COMPREPLY+=("${word%%$'\t'*}")
    done
    # A folder goes on, and so does a flag with its value.
    case ${COMPREPLY[0]-} in
        */ | *=) [ ${#COMPREPLY[@]} -gt 1 ] || compopt -o nospace ;;
    esac
}
complete -o nosort -F _cesbr cesbr
