//! The manual pages, which packages take from `packaging/man` so that none has to build a generator.

use std::collections::BTreeMap;
use std::path::Path;

use clap::CommandFactory;
use clap_mangen::Man;

use super::Cli;

/// What clap does not know: ends the page of the program itself.
const FILES: &str = r".SH FILES
.TP
\fI/etc/boardlane/agent.toml\fR, \fI/etc/boardlane/master.toml\fR
The configs with which the systemd units run a daemon.
.TP
\fI/run/boardlane\fR
Where a backplane has the sockets of its slots, and each daemon its control socket.
.TP
\fI/var/lib/boardlane/seed\fR
What MAC addresses are derived from on a machine without \fI/etc/machine-id\fR.
.SH EXIT STATUS
0; 1 for what fails at run time; 2 for usage and config.
";

fn pages() -> BTreeMap<String, String> {
    let mut cli = Cli::command().disable_help_subcommand(true);
    cli.build();
    let commands = cli.get_subcommands().filter(|command| !command.is_hide_set());
    let mut pages = BTreeMap::new();
    for (command, end) in commands.map(|command| (command, "")).chain([(&cli, FILES)]) {
        let man = Man::new(command.clone())
            .source(concat!("boardlane ", env!("CARGO_PKG_VERSION")))
            .manual("boardlane");
        let mut page = Vec::new();
        man.render(&mut page).unwrap();
        let page = String::from_utf8(page).unwrap() + end;
        // Without its quotes, the empty date would be no argument of .TH at all.
        pages.insert(man.get_filename(), page.replacen(" 1  ", " 1 \"\" ", 1));
    }
    pages
}

#[test]
fn the_manual_pages_say_what_help_says() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/man");
    let pages = pages();
    if std::env::var_os("WRITE_MAN").is_some() {
        for (name, page) in &pages {
            std::fs::write(directory.join(name), page).unwrap();
        }
    }
    let files = std::fs::read_dir(&directory).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, std::fs::read_to_string(path).unwrap())
    });
    let files: BTreeMap<_, _> = files.collect();
    let changed = pages.iter().filter(|(name, page)| files.get(*name) != Some(page));
    let surplus = files.iter().filter(|(name, _)| !pages.contains_key(*name));
    let wrong: Vec<_> = changed.chain(surplus).map(|(name, _)| name).collect();
    assert!(
        wrong.is_empty(),
        "{wrong:?} in packaging/man: run WRITE_MAN=1 cargo test --bin boardlane man, and remove \
         pages of commands that are gone"
    );
}
