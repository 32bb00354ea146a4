# Completion of cesbr in fish: put it into ~/.config/fish/completions as `cesbr.fish`, or source it.
function __cesbr_complete
    set -l words (commandline -opc)
    set -l typed (commandline -ct)
    # The word as it is meant; its quotes may still be open.
    set -l current (string unescape -- "$typed"
        or string unescape -- "$typed'"
        or string unescape -- "$typed\""
        or printf '%s' "$typed")
    set -l answer ($words[1] __complete fish $words[2..-1] "$current" 2>/dev/null </dev/null)
    switch "$answer[1]"
        case files
            __fish_complete_path (string replace -r -- '^--[^=]*=' '' "$current")
        case folders
            __fish_complete_directories (string replace -r -- '^--[^=]*=' '' "$current") ''
        case note
            printf '\ncesbr: %s\n' "$answer[2]" >&2
            commandline -f repaint
        case '*'
            set -q answer[2]; and printf '%s\n' $answer[2..-1]
    end
end
complete -c cesbr -k -f -a '(__cesbr_complete)'
