//! The manual pages of the commands and what shells complete, which packages take from `packaging`, so that
//! none has to build a generator.

use std::collections::BTreeMap;
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::Cli;

/// The day of this version.
const DATE: &str = "2026-11-27";

/// What clap does not know: ends the page of the program itself.
const FILES: &str = r".SH FILES
.TP
\fI/etc/boardlane/agent.toml\fR, \fI/etc/boardlane/master.toml\fR
The configs with which the systemd units run a daemon.
.TP
\fI/run/boardlane\fR
Where a backplane has the sockets of its slots, and each daemon its control
socket.
.TP
\fI/var/lib/boardlane/seed\fR
What MAC addresses are derived from on a machine without
\fI/etc/machine-id\fR.
.SH EXIT STATUS
0; 1 for what fails at run time; 2 for usage and config.
";

const SEE_ALSO: &str = r".SH SEE ALSO
.BR boardlane (1),
.BR boardlane.toml (5),
.BR boardlane (7)
";
const OF_ITSELF: &str = ".BR boardlane (1),\n";

/// The program's commands, without those that are for itself.
fn shown() -> Command {
    let cli = Cli::command().disable_help_subcommand(true);
    let (hidden, shown): (Vec<_>, Vec<_>) =
        cli.get_subcommands().cloned().partition(Command::is_hide_set);
    assert!(!hidden.is_empty() && shown.len() > 5);
    let options = cli.get_arguments().cloned().collect::<Vec<_>>();
    let about = cli.get_about().cloned().unwrap_or_default();
    let long = cli.get_long_about().cloned().unwrap_or_default();
    let mut bare = Command::new("boardlane")
        .version(env!("CARGO_PKG_VERSION"))
        .about(about)
        .long_about(long)
        .disable_help_subcommand(true)
        .args(options)
        .subcommands(shown);
    bare.build();
    bare
}

/// A source line of at most 80 characters for each of `page`; text is filled, so they are its own affair.
fn folded(page: &str) -> String {
    let mut folded = String::new();
    for line in page.lines() {
        let line = line.trim_end();
        if line.starts_with('.') {
            folded += line;
        } else {
            let mut width = 0;
            for word in line.split(' ') {
                // At the start of a line these would make it a request.
                let glued = word.is_empty() || word.starts_with(['.', '\'']);
                if width > 0 && width + 1 + word.len() > 80 && !glued {
                    folded.push('\n');
                    width = 0;
                } else if width > 0 {
                    folded.push(' ');
                    width += 1;
                }
                folded += word;
                width += word.len();
            }
        }
        folded.push('\n');
    }
    folded
}

fn pages() -> BTreeMap<String, String> {
    let cli = shown();
    let commands = cli.get_subcommands().map(|command| (command, SEE_ALSO.to_owned()));
    let last = FILES.to_owned() + &SEE_ALSO.replace(OF_ITSELF, "");
    let mut pages = BTreeMap::new();
    for (command, end) in commands.chain([(&cli, last)]) {
        let name = command.get_display_name().unwrap_or("boardlane");
        let man = Man::new(command.clone())
            .title(name.to_uppercase())
            .date(DATE)
            .source(concat!("boardlane ", env!("CARGO_PKG_VERSION")))
            .manual("boardlane");
        let mut page = Vec::new();
        man.render(&mut page).unwrap();
        let page = String::from_utf8(page).unwrap().replace(".SH EXTRA\n", ".SH NOTES\n");
        pages.insert(format!("{name}.1"), folded(&page) + &end);
    }
    pages
}

fn completions() -> BTreeMap<String, String> {
    let shells = [
        (Shell::Bash, "boardlane.bash"),
        (Shell::Fish, "boardlane.fish"),
        (Shell::Zsh, "_boardlane"),
    ];
    let of = |shell| {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut shown(), "boardlane", &mut text);
        String::from_utf8(text).unwrap()
    };
    shells.into_iter().map(|(shell, name)| (name.to_owned(), of(shell))).collect()
}

/// The files of a folder of `packaging` are these and no others; `WRITE_MAN=1` writes them.
fn are_there(folder: &str, expected: &BTreeMap<String, String>) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(folder);
    if std::env::var_os("WRITE_MAN").is_some() {
        for (name, text) in expected {
            std::fs::write(directory.join(name), text).unwrap();
        }
    }
    let files = std::fs::read_dir(&directory).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, std::fs::read_to_string(path).unwrap())
    });
    // Pages of other sections are written by hand.
    let files: BTreeMap<_, _> =
        files.filter(|(name, _)| !name.ends_with(".5") && !name.ends_with(".7")).collect();
    let changed = expected.iter().filter(|(name, text)| files.get(*name) != Some(text));
    let surplus = files.iter().filter(|(name, _)| !expected.contains_key(*name));
    let wrong: Vec<_> = changed.chain(surplus).map(|(name, _)| name).collect();
    assert!(
        wrong.is_empty(),
        "{wrong:?} in packaging/{folder}: run WRITE_MAN=1 cargo test --bin boardlane man, and \
         remove those of commands that are gone"
    );
}

#[test]
fn the_manual_pages_say_what_help_says() {
    are_there("man", &pages());
}

#[test]
fn shells_complete_what_help_says() {
    are_there("completions", &completions());
}
