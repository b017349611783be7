//! The program from outside: exit status, standard output and standard error.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used, reason = "a test may end so, in its helpers too")]

use std::io::{BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const GOOD: &str = "[[link]]\nname = \"bl0\"\ntransport = \"shm:/run/boardlane/slot0.sock\"\n";

/// A directory that goes away with the test.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("bl-cli-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn boardlane(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_boardlane"))
        .args(arguments)
        .env_remove("BOARDLANE_LOG")
        .output()
        .unwrap()
}

/// Exit status, standard output, standard error.
fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = boardlane(arguments);
    let text = |octets: Vec<u8>| String::from_utf8(octets).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_good_config_is_ok() {
    let dir = Dir::new("good");
    let file = dir.file("agent.toml", GOOD);
    let (status, out, err) = run(&["check", &file]);
    assert_eq!((status, out, err.as_str()), (0, format!("{file}: ok, 1 link\n"), ""));
}

#[test]
fn the_example_configs_are_good_and_fit_each_other() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/config");
    let mut transports = Vec::new();
    for (name, control) in [("agent.toml", "agent.sock"), ("master.toml", "master.sock")] {
        let file = directory.join(name);
        let file = file.to_str().unwrap();
        assert_eq!(run(&["check", file]), (0, format!("{file}: ok, 1 link\n"), String::new()));
        let (_, expanded, _) = run(&["check", "--expand", file]);
        assert!(expanded.contains(control), "{expanded}");
        let transport = expanded.lines().find(|line| line.starts_with("transport = "));
        transports.push(transport.unwrap().to_owned());
    }
    assert_eq!(transports[0], transports[1]);
    let file = |name| directory.join(name).to_str().unwrap().to_owned();
    let (_, master, _) = run(&["check", "--expand", &file("master-crate.toml")]);
    let (_, agent, _) = run(&["check", "--expand", &file("agent-crate.toml")]);
    assert_eq!(master.matches("\n[[link]]\n").count(), 16);
    assert!(master.contains("\naddress = [\"10.77.0.1/30\", \"fd77::1/64\"]\n"), "{master}");
    assert!(agent.contains("{ to = \"10.77.0.0/16\", via = \"10.77.0.1\" }"), "{agent}");
    let mut others = vec!["agent-vhost-user.toml", "master-vhost-user.toml"];
    if cfg!(feature = "pci") {
        others.push("master-pci.toml");
    }
    for name in others {
        let file = directory.join(name);
        assert_eq!(run(&["check", file.to_str().unwrap()]).0, 0, "{name}");
    }
}

#[test]
fn the_readme_has_the_example_configs_every_key_and_every_drop() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |file: &str| std::fs::read_to_string(root.join(file)).unwrap();
    let readme = read("README.md");
    for name in std::fs::read_dir(root.join("examples/config")).unwrap() {
        let name = name.unwrap().file_name().into_string().unwrap();
        let text = read(&format!("examples/config/{name}"));
        let is_shown = text.lines().next().is_some_and(|first| readme.contains(first));
        if is_shown {
            assert!(readme.contains(&format!("```toml\n{text}```\n")), "{name} is another there");
        } else {
            assert!(readme.contains(&format!("(examples/config/{name})")), "{name} is not there");
        }
    }
    let (_, expanded, _) = run(&["check", "--expand", "examples/config/agent.toml"]);
    let keys = expanded.lines().filter_map(|line| line.trim_start_matches("# ").split_once(" = "));
    let keys: Vec<&str> = keys.map(|(key, _)| key).collect();
    assert!(keys.contains(&"heartbeat_ms"), "{expanded}");
    for key in keys.into_iter().chain(["slots"]) {
        assert!(readme.contains(&format!("`{key}`")), "the key {key}");
    }
    for drop in boardlane::net::frame::Drop::ALL {
        assert!(readme.contains(&format!("`{}`", drop.name())), "the drop {}", drop.name());
    }
}

#[test]
fn an_expanded_config_is_a_config() {
    let dir = Dir::new("expand");
    let (status, expanded, err) = run(&["check", &dir.file("agent.toml", GOOD), "--expand"]);
    assert_eq!((status, err.as_str()), (0, ""));
    assert!(expanded.starts_with("control = \"/run/boardlane/agent.sock\"\n"), "{expanded}");
    let (status, again, _) = run(&["check", "--expand", &dir.file("b.toml", &expanded)]);
    assert_eq!((status, again), (0, expanded));
}

#[test]
fn a_bad_config_is_status_2_for_check_and_for_daemons() {
    let dir = Dir::new("bad");
    let file = dir.file("bad.toml", &format!("{GOOD}mtu = 1\n"));
    let expected = format!(
        "{file}:4:7: mtu 1 is out of range\n  4 | mtu = 1\n    |       ^ write 68 to 65521\n\
         boardlane: {file}: 1 error, nothing was changed\n"
    );
    for arguments in [["check", &file], ["agent", "--config"], ["master", "--config"]] {
        let mut arguments = arguments.to_vec();
        if arguments[0] != "check" {
            arguments.push(&file);
        }
        assert_eq!(run(&arguments), (2, String::new(), expected.clone()));
    }
    let (status, out, err) = run(&["check", "/nonexistent/x.toml"]);
    assert_eq!((status, out.as_str()), (2, ""));
    assert!(err.starts_with("boardlane: /nonexistent/x.toml: cannot be read: "), "{err}");
}

#[test]
fn a_probe_of_what_is_not_there_is_status_1_and_one_line_and_json_all_the_same() {
    let target = "shm:/nonexistent/slot0.sock";
    let line = format!(
        "boardlane: {target}: no backplane yet: /nonexistent/slot0.sock does not exist; start one there\n"
    );
    let (status, out, err) = run(&["probe", target]);
    assert_eq!((status, out.as_str()), (1, ""));
    // A daemon of this machine that hangs is told of, too.
    assert!(err.ends_with(&line), "{err}");
    let (status, out, err) = run(&["probe", "--json", target, target]);
    assert!(status == 1 && err.ends_with(&line), "{err}");
    let all: Vec<serde_json::Value> = serde_json::from_str(&out).unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!((&all[0]["target"], &all[0]["good"]), (&target.into(), &false.into()));
    assert!(
        all[0]["window"].is_null() && all[0]["verdict"].as_str().unwrap().contains("no backplane")
    );
    let (status, out, err) = run(&["probe", "--control", "/nonexistent", "bl0"]);
    assert_eq!((status, out.as_str()), (1, ""));
    assert!(
        err.starts_with("boardlane: /nonexistent: no such socket: is the daemon running?"),
        "{err}"
    );
    assert!(err.contains("bl0: no daemon has a link of this name"), "{err}");
    for (device, why) in [
        ("/dev/nonexistent", "no UIO device: /dev/nonexistent does not exist; "),
        ("/dev/null", "/dev/null is not a UIO device; "),
    ] {
        let (status, out, err) = run(&["probe", &format!("uio:{device}")]);
        assert_eq!((status, out.as_str()), (1, ""));
        assert!(err.contains(&format!("boardlane: uio:{device}: {why}")), "{err}");
    }
}

#[test]
fn a_probe_without_a_target_lists_what_there_is() {
    let (_, out, _) = run(&["probe"]);
    for title in [
        "PCI functions of a known kind",
        "UIO devices",
        "slots of a backplane",
        "links of daemons that run",
    ] {
        assert!(out.contains(&format!("{title}\n  ")), "{out}");
    }
    let (_, out, _) = run(&["probe", "--json"]);
    let list: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert!(["functions", "uio", "slots", "links"].iter().all(|key| list[key].is_array()), "{out}");
}

#[test]
fn wrong_usage_is_status_2_and_one_line() {
    for (arguments, said) in [
        (&["demo", "--bords", "3"][..], "'--bords' found, a similar argument exists: '--boards'"),
        (&["demo", "--boards", "65"], "65 is not in 1..=64"),
        (&["demo", "--dma", "drect"], "write auto, direct or engine"),
        (&["demo", "--mtu", "67"], "67 is not in 68..=65521"),
        (&["backplane", "--dir", "/x"], "not provided: --slots <N>"),
        (&["backplane", "--dir", "/x", "--slots", "0"], "0 is not in 1..=256"),
        (&["backplane", "--dir", "/x", "--slots", "1", "--window", "3Q"], "write bytes, as 16M"),
        (&["backplane", "--dir", "/x", "--slots", "1", "--mode", "9"], "write three octal digits"),
        (&["backplane", "--dir", "/x", "--slots", "1", "--owner", "no-such"], "there is no user"),
        (&["agent"], "not provided: --config <FILE>"),
        (&["sttus"], "unrecognized subcommand 'sttus'"),
        (&["check", "x", "--log", "loud"], "--log \"loud\" is no level"),
    ] {
        let (status, out, err) = run(arguments);
        assert_eq!((status, out.as_str()), (2, ""), "{arguments:?}");
        assert!(err.starts_with("boardlane: ") && err.contains(said), "{arguments:?}: {err}");
        assert_eq!(err.lines().count(), 1, "{err}");
    }
    let (status, _, err) = run(&[]);
    assert_eq!(status, 2);
    assert!(err.contains("Usage: boardlane"), "{err}");
}

#[test]
fn the_log_level_of_the_environment_is_checked_too() {
    let output = Command::new(env!("CARGO_BIN_EXE_boardlane"))
        .args(["status", "--control", "/nonexistent"])
        .env("BOARDLANE_LOG", "loud")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(err.starts_with("boardlane: BOARDLANE_LOG \"loud\" is no level"), "{err}");
}

#[test]
fn help_names_every_command_and_option() {
    let (status, out, _) = run(&["--help"]);
    assert_eq!(status, 0);
    for command in ["demo", "backplane", "agent", "master", "status", "reload", "check"] {
        assert!(out.lines().any(|line| line.trim_start().starts_with(command)), "{command}: {out}");
    }
    for (command, options) in [
        ("demo", &["--boards", "--seconds", "--mtu", "--dma", "--json", "--keep"][..]),
        ("backplane", &["--dir", "--slots", "--window", "--vectors", "--owner", "--mode"]),
        ("agent", &["--config"]),
        ("master", &["--config"]),
        ("status", &["--control", "--json", "--watch"]),
        ("reload", &["--control"]),
        ("check", &["--expand"]),
        #[cfg(feature = "doctor")]
        ("doctor", &["[FILE]...", "--json"]),
    ] {
        let (status, out, _) = run(&[command, "--help"]);
        assert_eq!(status, 0);
        for option in options.iter().chain(&["--log"]) {
            assert!(out.contains(option), "{command} {option}: {out}");
        }
    }
    let version = format!("boardlane {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(run(&["--version"]), (0, version, String::new()));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let dir = Dir::new("pipe");
    let file = dir.file("agent.toml", GOOD);
    for arguments in [&["check", &file][..], &["--help"]] {
        let (out, reader) = UnixStream::pair().unwrap();
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_boardlane"))
            .args(arguments)
            .stdout(Stdio::from(OwnedFd::from(out)))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
            .wait_with_output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    }
}

/// Answers each `request` on `path` with `answer`.
fn fake_daemon(path: &Path, request: &'static str, answer: &'static str) {
    let expected = format!("{{\"request\":\"{request}\"}}\n");
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = String::new();
            BufReader::new(stream.try_clone().unwrap()).read_line(&mut request).unwrap();
            assert_eq!(request, expected);
            stream.write_all(answer.as_bytes()).unwrap();
        }
    });
}

#[test]
fn status_shows_what_the_daemon_says() {
    let dir = Dir::new("status");
    let path = dir.0.join("master.sock");
    let socket = path.to_str().unwrap();
    // A field that this version does not know goes through.
    let answer = "{\"role\":\"master\",\"pid\":7,\"version\":\"9.9.9\",\"links\":[],\"new\":1}\n";
    fake_daemon(&path, "status", answer);
    let shown = run(&["status", "--control", socket, "--json"]);
    assert_eq!(shown, (0, answer.to_owned(), String::new()));
    let (status, table, _) = run(&["status", "--control", socket]);
    assert_eq!(status, 0);
    assert_eq!(
        table,
        "master, pid 7, version 9.9.9; 0 of 0 up\n\
         LINK  STATE  AGE  RX/S  F/S  TX/S  F/S  RX  TX  FLAPS  DROPS  REASON\n"
    );
}

#[test]
fn status_without_an_answer_is_status_1_with_the_reason() {
    let dir = Dir::new("mute");
    let path = dir.0.join("master.sock");
    let socket = path.to_str().unwrap();
    for (answer, said) in [
        (None, "no such socket: is the daemon running?"),
        (Some("{\"error\":\"busy\"}\n"), "the daemon said: busy"),
        (Some("{}\n"), "the answer is not understood"),
        (Some(""), "the daemon closed the connection"),
    ] {
        let _ = std::fs::remove_file(&path);
        if let Some(answer) = answer {
            fake_daemon(&path, "status", answer);
        }
        let (status, out, err) = run(&["status", "--control", socket]);
        assert_eq!((status, out.as_str()), (1, ""), "{err}");
        assert!(err.starts_with(&format!("boardlane: {socket}: {said}")), "{err}");
        assert_eq!(err.lines().count(), 1);
    }
}

#[test]
fn a_broker_without_a_daemon_says_so_and_is_not_in_the_help() {
    let dir = Dir::new("broker");
    let file = dir.file("agent.toml", GOOD);
    let (status, out, err) = run(&["broker", "agent", "--config", &file]);
    assert_eq!((status, out.as_str()), (1, ""), "{err}");
    assert!(err.contains("standard input is no daemon's socket"), "{err}");
    assert!(!run(&["--help"]).1.contains("broker"));
}

#[test]
fn what_dead_daemons_left_beside_their_sockets_is_cleaned() {
    let dir = Dir::new("clean");
    let path = |name: &str| dir.0.join(name);
    let control = path("agent.sock").display().to_string();
    let slot = path("slot0.sock").display().to_string();
    let text = format!(
        "control = \"{control}\"\n[[link]]\nname = \"no-such-netdev\"\ntransport = \"shm:{slot}\"\n"
    );
    let file = dir.file("agent.toml", &text);
    let note = dir.file("agent.sock.no-such-netdev.owned", "");
    let other = dir.file("agent.sock.lo.owned", "");
    // A socket outlives its listener.
    drop(UnixListener::bind(&control).unwrap());
    drop(UnixListener::bind(&slot).unwrap());
    let lines = [format!("note {note}"), format!("socket {control}"), format!("socket {slot}")];
    let would: String = lines.iter().map(|line| format!("would remove {line}\n")).collect();
    let clean = |options: &[&str]| run(&[&["clean", "--config", &file], options].concat());
    assert_eq!(clean(&["--dry-run"]), (0, would, String::new()));
    assert_eq!(clean(&[]), (0, lines.join("\n") + "\n", String::new()));
    assert_eq!(clean(&[]), (0, String::new(), String::new()));
    assert!(Path::new(&other).exists(), "its netdev is there");

    let _alive = UnixListener::bind(&control).unwrap();
    dir.file("agent.sock.no-such-netdev.owned", "");
    assert_eq!(clean(&[]), (0, String::new(), String::new()));
    assert!(Path::new(&note).exists());
}

#[test]
fn the_socket_that_a_dead_agent_listened_on_is_cleaned_and_the_peers_own_is_not() {
    let dir = Dir::new("clean-vhost-user");
    let [listens, connects] = ["a.sock", "b.sock"].map(|name| dir.0.join(name));
    let text = format!(
        "control = \"{}/c.sock\"\n[[link]]\nname = \"no-such-a\"\ntransport = \"vhost-user:{}\"\n\
         [[link]]\nname = \"no-such-b\"\ntransport = \"vhost-user:{}?client\"\n",
        dir.0.display(),
        listens.display(),
        connects.display()
    );
    let file = dir.file("agent.toml", &text);
    let lock = dir.file("a.sock.lock", "1234\n");
    drop(UnixListener::bind(&listens).unwrap());
    drop(UnixListener::bind(&connects).unwrap());
    let clean = || run(&["clean", "--config", &file]);
    let removed = format!("socket {}\nlock {lock}\n", listens.display());
    assert_eq!(clean(), (0, removed, String::new()));
    assert!(!listens.exists() && !Path::new(&lock).exists() && connects.exists());
    let _alive = UnixListener::bind(&listens).unwrap();
    assert_eq!(clean(), (0, String::new(), String::new()));
    assert!(listens.exists());
}

#[test]
fn reload_tells_what_was_done_or_why_nothing_was() {
    let dir = Dir::new("reload");
    let path = dir.0.join("master.sock");
    let socket = path.to_str().unwrap();
    let report = "{\"added\":[\"bl3\",\"bl4\"],\"removed\":[\"bl1\"],\"changed\":[\"bl0\",\"bl5\"],\
        \"restarted\":[\"bl5\"],\"unchanged\":[\"bl2\"]}\n";
    let done =
        format!("{socket}: added bl3 bl4; removed bl1; changed bl0; restarted bl5; 1 unchanged\n");
    let wrong = "{\"error\":\"m.toml:4:7: mtu 1 is out\\n  4 | \\u001b[2J\",\"config\":true}\n";
    let shown =
        format!("m.toml:4:7: mtu 1 is out\n  4 | ?[2J\nboardlane: {socket}: nothing was changed\n");
    for (answer, expected) in [
        (report, (0, done, String::new())),
        (wrong, (2, String::new(), shown)),
        (
            "{\"error\":\"not you\"}\n",
            (1, String::new(), format!("boardlane: {socket}: the daemon said: not you\n")),
        ),
    ] {
        let _ = std::fs::remove_file(&path);
        fake_daemon(&path, "reload", answer);
        assert_eq!(run(&["reload", "--control", socket]), expected);
    }
}

/// A backplane's log, with its standard error told to be the journal's stream or not.
#[cfg(feature = "backplane")]
fn log_of_a_backplane(dir: &Dir, told: impl Fn(&std::fs::File) -> String) -> String {
    let path = dir.0.join("log");
    let log = std::fs::File::create(&path).unwrap();
    let mut backplane = Command::new(env!("CARGO_BIN_EXE_boardlane"))
        .args(["--log", "debug", "backplane", "--slots", "1", "--dir"])
        .arg(dir.0.join("slots"))
        .env("JOURNAL_STREAM", told(&log))
        .stderr(log)
        .spawn()
        .unwrap();
    let start = std::time::Instant::now();
    let mut said = String::new();
    while !said.ends_with('\n') && start.elapsed().as_secs() < 10 {
        std::thread::sleep(std::time::Duration::from_millis(10));
        said = std::fs::read_to_string(&path).unwrap();
    }
    let _ = backplane.kill();
    let _ = backplane.wait();
    said
}

#[cfg(feature = "backplane")]
#[test]
fn a_log_that_is_the_journals_has_priorities_and_no_times() {
    use std::os::unix::fs::MetadataExt;
    let dir = Dir::new("journal");
    let stream = |log: &std::fs::File, more: u64| {
        let file = log.metadata().unwrap();
        format!("{}:{}", file.dev(), file.ino() + more)
    };
    let said = log_of_a_backplane(&dir, |log| stream(log, 0));
    assert!(said.contains("<6>backplane is ready "), "{said}");
    assert!(said.lines().all(|line| line.starts_with('<') && line.as_bytes()[2] == b'>'), "{said}");
    // It was told so, but has been led elsewhere since.
    let said = log_of_a_backplane(&dir, |log| stream(log, 1));
    assert!(said.starts_with("20") && said.contains(" INFO "), "{said}");

    let output = Command::new(env!("CARGO_BIN_EXE_boardlane"))
        .args(["check", "/nonexistent/x.toml"])
        .env("JOURNAL_STREAM", "0:0")
        .output()
        .unwrap();
    assert!(output.stderr.starts_with(b"boardlane: "));
}

#[cfg(feature = "doctor")]
#[test]
fn the_doctor_says_a_line_for_each_check_or_what_is_wrong_in_a_config() {
    let (_, out, err) = run(&["doctor"]);
    assert!(err.is_empty(), "{err}");
    for line in out.lines() {
        let [verdict, check] = [line.get(..4), line.get(6..16)].map(Option::unwrap);
        assert!(["ok  ", "warn", "FAIL"].contains(&verdict) && !check.trim().is_empty(), "{out}");
    }
    assert!(out.contains("  kernel      Linux "), "{out}");
    let (status, out, _) = run(&["doctor", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["ok"], status == 0);
    let first = &json["findings"][0];
    assert_eq!((&first["check"], &first["verdict"]), (&"kernel".into(), &"ok".into()), "{out}");

    let dir = Dir::new("doctor");
    let file = dir.file("bad.toml", &format!("{GOOD}mtu = 1\n"));
    let (status, out, err) = run(&["doctor", &file]);
    assert_eq!((status, out.as_str()), (2, ""));
    assert!(err.starts_with(&format!("{file}:4:7: mtu 1 is out of range\n")), "{err}");
    assert_eq!(run(&["doctor", "/nonexistent/x.toml"]).0, 2);
}
