# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_boardlane_global_optspecs
    string join \n log= h/help V/version
end

function __fish_boardlane_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_boardlane_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_boardlane_using_subcommand
    set -l cmd (__fish_boardlane_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c boardlane -n "__fish_boardlane_needs_command" -l log -d 'How much is logged on standard error: off, error, warn, info, debug or trace [default: what the variable BOARDLANE_LOG says, or info]' -r
complete -c boardlane -n "__fish_boardlane_needs_command" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c boardlane -n "__fish_boardlane_needs_command" -s V -l version -d 'Print version'
complete -c boardlane -n "__fish_boardlane_needs_command" -f -a "demo" -d 'Show links at work on this machine: builds them, measures, cleans up (needs TUN, but no root)'
complete -c boardlane -n "__fish_boardlane_needs_command" -f -a "backplane" -d 'Stand for the PCI bus on one machine: serve the sockets through which ends meet'
complete -c boardlane -n "__fish_boardlane_needs_command" -f -a "agent" -d 'Run a board\'s end of its links'
complete -c boardlane -n "__fish_boardlane_needs_command" -f -a "master" -d 'Run the PCI master\'s end of its links'
complete -c boardlane -n "__fish_boardlane_needs_command" -f -a "status" -d 'Show what the daemons of this machine do'
complete -c boardlane -n "__fish_boardlane_needs_command" -f -a "probe" -d 'Say what stands in the window of a board or slot; without a target, what there is to look at'
complete -c boardlane -n "__fish_boardlane_needs_command" -f -a "doctor" -d 'Look whether this machine has what links need, and say what to do; nothing is changed'
complete -c boardlane -n "__fish_boardlane_needs_command" -f -a "capture" -d 'Write the frames of a link as they pass, as pcapng, which tshark and Wireshark read meanwhile'
complete -c boardlane -n "__fish_boardlane_needs_command" -f -a "clean" -d 'Remove what daemons, a backplane or a demo left when they were killed: netdevs, sockets, notes'
complete -c boardlane -n "__fish_boardlane_needs_command" -f -a "reload" -d 'Have the daemons of this machine read their configs again, and do what is different in them'
complete -c boardlane -n "__fish_boardlane_needs_command" -f -a "check" -d 'Read a config and say what is wrong in it, with line and column; nothing is changed'
complete -c boardlane -n "__fish_boardlane_using_subcommand demo" -l boards -d 'Number of boards, 1 to 64' -r
complete -c boardlane -n "__fish_boardlane_using_subcommand demo" -l seconds -d 'Seconds that each TCP measurement takes, 1 to 3600' -r
complete -c boardlane -n "__fish_boardlane_using_subcommand demo" -l mtu -d 'MTU of the links in bytes, 68 to 65521; below 1280 there is no IPv6' -r
complete -c boardlane -n "__fish_boardlane_using_subcommand demo" -l dma -d 'Who copies the payload: auto, direct or engine' -r
complete -c boardlane -n "__fish_boardlane_using_subcommand demo" -l log -d 'How much is logged on standard error: off, error, warn, info, debug or trace [default: what the variable BOARDLANE_LOG says, or info]' -r
complete -c boardlane -n "__fish_boardlane_using_subcommand demo" -l json -d 'Print one JSON object instead of tables'
complete -c boardlane -n "__fish_boardlane_using_subcommand demo" -l keep -d 'Stay until Ctrl-C, and say how to enter each namespace'
complete -c boardlane -n "__fish_boardlane_using_subcommand demo" -s h -l help -d 'Print help'
complete -c boardlane -n "__fish_boardlane_using_subcommand backplane" -l dir -d 'Directory of the sockets slot0.sock, slot1.sock, ...; made if it is missing' -r -F
complete -c boardlane -n "__fish_boardlane_using_subcommand backplane" -l slots -d 'Number of slots, 1 to 256: one for each board' -r
complete -c boardlane -n "__fish_boardlane_using_subcommand backplane" -l window -d 'Memory of each slot in bytes, a power of two; K, M and G may follow, as in 64M' -r
complete -c boardlane -n "__fish_boardlane_using_subcommand backplane" -l vectors -d 'Doorbell vectors of each end: one for messages and one for each queue pair' -r
complete -c boardlane -n "__fish_boardlane_using_subcommand backplane" -l owner -d 'Owner of the sockets: USER, USER:GROUP or :GROUP, by name or number [default: this process\'s]' -r
complete -c boardlane -n "__fish_boardlane_using_subcommand backplane" -l mode -d 'Mode of the sockets in octal: who may write to a slot\'s may be an end of it' -r
complete -c boardlane -n "__fish_boardlane_using_subcommand backplane" -l no-confine -d 'Leave out a part of what confines the backplane, for debugging: caps (capabilities are dropped), seccomp (system calls are filtered), landlock (files are out of reach)' -r -f -a "caps\t''
seccomp\t''
landlock\t''"
complete -c boardlane -n "__fish_boardlane_using_subcommand backplane" -l log -d 'How much is logged on standard error: off, error, warn, info, debug or trace [default: what the variable BOARDLANE_LOG says, or info]' -r
complete -c boardlane -n "__fish_boardlane_using_subcommand backplane" -s h -l help -d 'Print help'
complete -c boardlane -n "__fish_boardlane_using_subcommand agent" -l config -d 'The config, such as /etc/boardlane/master.toml; `boardlane check` reads it without running' -r -F
complete -c boardlane -n "__fish_boardlane_using_subcommand agent" -l no-confine -d 'Leave out a part of what confines the daemon, for debugging: caps (capabilities are dropped), seccomp (system calls are filtered), landlock (files are out of reach), broker (a process of its own opens things for a confined daemon; without it, only the threads that move frames are confined)' -r -f -a "caps\t''
seccomp\t''
landlock\t''
broker\t''"
complete -c boardlane -n "__fish_boardlane_using_subcommand agent" -l log -d 'How much is logged on standard error: off, error, warn, info, debug or trace [default: what the variable BOARDLANE_LOG says, or info]' -r
complete -c boardlane -n "__fish_boardlane_using_subcommand agent" -s h -l help -d 'Print help'
complete -c boardlane -n "__fish_boardlane_using_subcommand master" -l config -d 'The config, such as /etc/boardlane/master.toml; `boardlane check` reads it without running' -r -F
complete -c boardlane -n "__fish_boardlane_using_subcommand master" -l no-confine -d 'Leave out a part of what confines the daemon, for debugging: caps (capabilities are dropped), seccomp (system calls are filtered), landlock (files are out of reach), broker (a process of its own opens things for a confined daemon; without it, only the threads that move frames are confined)' -r -f -a "caps\t''
seccomp\t''
landlock\t''
broker\t''"
complete -c boardlane -n "__fish_boardlane_using_subcommand master" -l log -d 'How much is logged on standard error: off, error, warn, info, debug or trace [default: what the variable BOARDLANE_LOG says, or info]' -r
complete -c boardlane -n "__fish_boardlane_using_subcommand master" -s h -l help -d 'Print help'
complete -c boardlane -n "__fish_boardlane_using_subcommand status" -l control -d 'Socket of the daemon to ask; otherwise all in /run/boardlane are asked' -r -F
complete -c boardlane -n "__fish_boardlane_using_subcommand status" -l log -d 'How much is logged on standard error: off, error, warn, info, debug or trace [default: what the variable BOARDLANE_LOG says, or info]' -r
complete -c boardlane -n "__fish_boardlane_using_subcommand status" -l json -d 'Print JSON: an object with --control, otherwise an array of them'
complete -c boardlane -n "__fish_boardlane_using_subcommand status" -l watch -d 'Show it again each second, until Ctrl-C, with rates over that second'
complete -c boardlane -n "__fish_boardlane_using_subcommand status" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c boardlane -n "__fish_boardlane_using_subcommand probe" -l control -d 'Socket of the daemon to ask; otherwise all in /run/boardlane are asked' -r -F
complete -c boardlane -n "__fish_boardlane_using_subcommand probe" -l log -d 'How much is logged on standard error: off, error, warn, info, debug or trace [default: what the variable BOARDLANE_LOG says, or info]' -r
complete -c boardlane -n "__fish_boardlane_using_subcommand probe" -l json -d 'Print JSON: an array of objects, one for each target; without a target one object'
complete -c boardlane -n "__fish_boardlane_using_subcommand probe" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c boardlane -n "__fish_boardlane_using_subcommand doctor" -l log -d 'How much is logged on standard error: off, error, warn, info, debug or trace [default: what the variable BOARDLANE_LOG says, or info]' -r
complete -c boardlane -n "__fish_boardlane_using_subcommand doctor" -l json -d 'Print JSON: an object with `ok` and `findings`'
complete -c boardlane -n "__fish_boardlane_using_subcommand doctor" -s h -l help -d 'Print help'
complete -c boardlane -n "__fish_boardlane_using_subcommand capture" -l link -d 'The name of the link' -r
complete -c boardlane -n "__fish_boardlane_using_subcommand capture" -s w -l write -d 'The file to write; - is standard output' -r -F
complete -c boardlane -n "__fish_boardlane_using_subcommand capture" -s c -l count -d 'End after so many frames' -r
complete -c boardlane -n "__fish_boardlane_using_subcommand capture" -s s -l snaplen -d 'Capture at most so many bytes of each frame' -r
complete -c boardlane -n "__fish_boardlane_using_subcommand capture" -l control -d 'Socket of the daemon; otherwise the one in /run/boardlane that has the link' -r -F
complete -c boardlane -n "__fish_boardlane_using_subcommand capture" -l log -d 'How much is logged on standard error: off, error, warn, info, debug or trace [default: what the variable BOARDLANE_LOG says, or info]' -r
complete -c boardlane -n "__fish_boardlane_using_subcommand capture" -l drops -d 'Capture only frames that are dropped'
complete -c boardlane -n "__fish_boardlane_using_subcommand capture" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c boardlane -n "__fish_boardlane_using_subcommand clean" -l config -d 'Clean up after the daemon with this config, and nothing else; may be given several times' -r -F
complete -c boardlane -n "__fish_boardlane_using_subcommand clean" -l log -d 'How much is logged on standard error: off, error, warn, info, debug or trace [default: what the variable BOARDLANE_LOG says, or info]' -r
complete -c boardlane -n "__fish_boardlane_using_subcommand clean" -l dry-run -d 'Only say what would be removed'
complete -c boardlane -n "__fish_boardlane_using_subcommand clean" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c boardlane -n "__fish_boardlane_using_subcommand reload" -l control -d 'Socket of the daemon to ask; otherwise all in /run/boardlane are asked' -r -F
complete -c boardlane -n "__fish_boardlane_using_subcommand reload" -l log -d 'How much is logged on standard error: off, error, warn, info, debug or trace [default: what the variable BOARDLANE_LOG says, or info]' -r
complete -c boardlane -n "__fish_boardlane_using_subcommand reload" -s h -l help -d 'Print help (see more with \'--help\')'
complete -c boardlane -n "__fish_boardlane_using_subcommand check" -l log -d 'How much is logged on standard error: off, error, warn, info, debug or trace [default: what the variable BOARDLANE_LOG says, or info]' -r
complete -c boardlane -n "__fish_boardlane_using_subcommand check" -l expand -d 'Print the config with all defaults written out, as TOML'
complete -c boardlane -n "__fish_boardlane_using_subcommand check" -s h -l help -d 'Print help (see more with \'--help\')'
