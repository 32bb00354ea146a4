# Completion of cesbr in bash: source it, or put it into the folder of bash-completion as `cesbr`.
_cesbr() {
    local answer word
    COMPREPLY=()
    mapfile -t answer < <("$1" __complete bash "${COMP_LINE:0:COMP_POINT}" "$2" 2>/dev/null </dev/null)
    case ${answer[0]-} in
        files) compopt -o default ;;
        folders) compopt -o dirnames ;;
        paths) compopt -o filenames ;;
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
