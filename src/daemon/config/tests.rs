use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;

use super::*;

mod layout;
#[cfg(feature = "metrics")]
mod metrics;
mod netdevs;
#[cfg(feature = "pci")]
mod patterns;
mod pump;
mod refusals;
mod slots;
mod transports;
#[cfg(feature = "uio")]
mod uio;

/// With every key that this version works on.
const FULL: &str = r#"
control = "/tmp/master.sock"
control_mode = "0660"
control_owner = "root:1000"
[[link]]
name = "bl0"
transport = "shm:/run/boardlane/slot0.sock"
address = ["10.77.0.1/30", "fd77::1/64"]
route = [
    { to = "10.80.0.0/24", via = "10.77.0.2", metric = 100 },
    { to = "default", via = "fe80::2" },
    { to = "192.0.2.0/24" },
]
slot = 3
mac = "02:00:00:00:00:AB"
mtu = 9000
up = true
queues = 4
netns = "board0"
dma = "engine"
engine = { depth = 8, latency_us = 1000, bandwidth_mb_s = 2000, error_ppm = 5, cpu_below = 0, dma_only = true }
port = "tap"
pump = "builtin"
features_off = ["MRG_RXBUF", "HOST_TSO4"]
keep = true
dialect = "v1"
layout = "boardlane"
cpu = [2, 0]
heartbeat_ms = 100
busy_poll_us = 0
allow_mac = ["02:00:00:00:00:02", "02:00:00:00:00:AC"]
allow_ip = ["10.77.0.2", "10.80.0.0/24", "fd77::2", "fe80::/10"]
rate = { bits = "1G", frames = 100_000 }
"#;

/// Every key that a link without a netdev can have, below [`HEAD`].
const PORT_FULL: &str = r#"port = "echo"
pump = "builtin"
slot = 3
queues = 4
cpu = 1
dma = "engine"
engine = { depth = 8 }
features_off = ["MRG_RXBUF"]
dialect = "v1"
layout = "boardlane"
heartbeat_ms = 100
rate = "1500K"
"#;

/// What stands above the lines of a table's row: lines 1 to 3.
const HEAD: &str = "[[link]]\nname = \"bl0\"\ntransport = \"shm:/a\"\n";

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse("f.toml", text, Role::Master)
}

/// What is said about `text`, in full.
fn complaint(text: &str) -> String {
    parse(text).expect_err(text).to_string()
}

#[test]
fn a_full_config_means_what_it_says() {
    let config = parse(FULL).unwrap();
    assert_eq!(config.control, Path::new("/tmp/master.sock"));
    assert_eq!(config.access.mode, 0o660);
    assert_eq!((config.access.owner.uid, config.access.owner.gid), (Some(0), Some(1000)));
    let via = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2));
    let expected = LinkConfig {
        name: "bl0".into(),
        transport: Transport::Shm("/run/boardlane/slot0.sock".into()),
        socket: Access::default(),
        addresses: vec!["10.77.0.1/30".parse().unwrap(), "fd77::1/64".parse().unwrap()],
        routes: vec![
            Route::new("10.80.0.0/24".parse().unwrap(), Some(via), Some(100)),
            Route::new("::/0".parse().unwrap(), Some("fe80::2".parse().unwrap()), None),
            Route::new("192.0.2.0/24".parse().unwrap(), None, None),
        ],
        netdev: NetdevKeys::default(),
        slot: Some(3),
        mac: Some([2, 0, 0, 0, 0, 0xab]),
        mtu: Some(9000),
        up: Some(true),
        queues: 4,
        netns: Some(Netns::Name("board0".into())),
        port: Port::Tap,
        dma: Dma::Engine,
        cpu: vec![2, 0],
        pump: Pump::Builtin,
        engine: EngineConfig {
            depth: 8,
            latency_us: 1000,
            bandwidth_mb_s: 2000,
            error_ppm: 5,
            cpu_below: 0,
            dma_only: true,
        },
        layout: Layout::Boardlane,
        dialect: Dialect::V1,
        features_off: vec!["MRG_RXBUF".into(), "HOST_TSO4".into()],
        keep: true,
        heartbeat_ms: 100,
        busy_poll_us: 0,
        allow_mac: vec![[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 0xac]],
        allow_ip: ["10.77.0.2/32", "10.80.0.0/24", "fd77::2/128", "fe80::/10"]
            .map(|network| network.parse().unwrap())
            .into(),
        rate: Some(RateConfig { bits: Some(1_000_000_000), frames: Some(100_000) }),
    };
    assert_eq!(config.links, [expected]);
}

#[test]
fn a_link_without_a_netdev_may_say_all_that_is_not_a_netdevs() {
    let config = parse(&format!("{HEAD}{PORT_FULL}")).unwrap();
    let link = &config.links[0];
    assert_eq!((link.port, link.queues, link.dma), (Port::Echo, 4, Dma::Engine));
    let expanded = config.expand(&[]);
    for key in link::OF_NETDEV {
        let line = format!("\n# {key} = none without a netdev\n");
        assert!(expanded.contains(&line), "{key} in\n{expanded}");
    }
    assert!(expanded.contains("\nport = \"echo\"\n"), "{expanded}");
    assert!(expanded.contains("\nrate = { bits = \"1500K\" }\n"), "{expanded}");
}

#[test]
fn a_short_config_has_defaults_by_role() {
    for (role, control) in
        [(Role::Master, "/run/boardlane/master.sock"), (Role::Agent, "/run/boardlane/agent.sock")]
    {
        let config = Config::parse("f.toml", HEAD, role).unwrap();
        assert_eq!(config.control, Path::new(control));
        assert_eq!(config.access, Access::default());
        let link = &config.links[0];
        assert_eq!((link.mtu, link.mac, link.slot, &link.netns), (None, None, None, &None));
        assert_eq!(
            (link.dma, link.keep, link.heartbeat_ms, link.busy_poll_us),
            (Dma::Auto, false, 250, 50)
        );
        assert_eq!(link.pump, Pump::Builtin);
        assert_eq!(link.engine, EngineConfig::default());
        assert_eq!((link.dialect, link.port), (Dialect::V2, Port::Tap));
        assert_eq!((link.allow_mac.len(), link.allow_ip.len(), link.rate), (0, 0, None));
    }
    assert_eq!(Role::of_file(Path::new("/etc/agents/board-agent.toml")), Role::Agent);
    assert_eq!(Role::of_file(Path::new("/etc/agents/master.toml")), Role::Master);
}

#[test]
fn what_expand_writes_reads_back_as_the_same_config() {
    let lines = ["netns = 42", "netns = '/a\"\\é'", "port = \"discard\"", PORT_FULL];
    let texts = lines.map(|lines| format!("{HEAD}{lines}"));
    for text in [FULL, HEAD].into_iter().chain(texts.iter().map(String::as_str)) {
        let config = parse(text).unwrap();
        let expanded = config.expand(&[]);
        assert_eq!(parse(&expanded).expect(&expanded), config);
        assert_eq!(parse(&expanded).unwrap().expand(&[]), expanded);
    }
    let expanded = parse(HEAD).unwrap().expand(&[]);
    for (key, _) in reader::TOP.iter().chain(reader::LINK) {
        let is_gone = *key == "slots";
        let stands = expanded.lines().any(|line| {
            let line = line.strip_prefix("# ").unwrap_or(line);
            line == format!("[[{key}]]") || line.starts_with(&format!("{key} = "))
        });
        assert_eq!(stands, !is_gone, "{key} in\n{expanded}");
    }
}

#[test]
fn good_values_at_their_limits_are_taken() {
    for line in [
        "dialect = \"v1\"",
        "dialect = \"v2\"",
        "mtu = 68",
        "mtu = 65521",
        "mtu = 1280\naddress = [\"fd77::1/64\"]",
        "mtu = 1279\naddress = [\"10.77.0.1/30\"]",
        "mtu = 0x5dc",
        "address = [\"10.77.0.0/31\", \"10.78.0.255/32\", \"fd77::/127\", \"fe80::1/64\"]",
        "address = [\"10.77.0.1/30\"]\nroute = [{ to = \"0.0.0.0/0\", via = \"10.77.0.2\" }]",
        "route = [{ to = \"10.0.0.0/8\" }, { to = \"10.0.0.0/8\", metric = 5 }]",
        "netns = \"/run/netns/a\"",
        "netns = 1",
        "heartbeat_ms = 10",
        "busy_poll_us = 1000",
        "queues = 1",
        "queues = 16",
        "dma = \"direct\"",
        "dma = \"engine\"",
        "dma = \"engine\"\nengine = {}",
        "dma = \"engine\"\nengine = { depth = 1024, latency_us = 1_000_000, error_ppm = 1_000_000 }",
        "dma = \"engine\"\nengine = { bandwidth_mb_s = 1_000_000, cpu_below = 65536 }",
        "features_off = []",
        "rate = \"1M\"",
        "rate = \"1000G\"",
        "rate = \"1000001\"",
        "rate = { frames = 100 }",
        "rate = { bits = \"1000K\", frames = 1_000_000_000 }",
        "allow_ip = [\"0.0.0.0/0\", \"::/0\", \"10.77.0.2/32\", \"10.77.0.2\"]",
    ] {
        assert!(parse(&format!("{HEAD}{line}\n")).is_ok(), "{line}");
    }
    let name = HEAD.replace("bl0", "fifteen-bytes.x");
    assert_eq!(parse(&name).unwrap().links[0].name.len(), 15);
    let bom = format!("\u{feff}{}", HEAD.replace('\n', "\r\n"));
    assert!(parse(&bom).is_ok());
}

#[test]
fn the_same_address_in_two_namespaces_is_no_duplicate() {
    let link = |name: &str, rest: &str| {
        format!(
            "[[link]]\nname = \"{name}\"\ntransport = \"shm:/{name}\"\n\
             address = [\"10.77.0.1/30\"]\nroute = [{{ to = \"10.80.0.0/24\" }}]\n{rest}\n"
        )
    };
    assert!(parse(&(link("a", "netns = \"x\"") + &link("b", "netns = \"y\""))).is_ok());
    let said = complaint(&(link("a", "netns = \"x\"") + &link("b", "netns = \"x\"")));
    let first_lines: Vec<&str> = said.lines().step_by(3).collect();
    assert_eq!(
        first_lines,
        [
            "f.toml:10:12: address \"10.77.0.1\" stands on line 4 already",
            "f.toml:11:17: route to \"10.80.0.0/24\" stands on line 5 already",
        ]
    );
}

#[test]
fn a_complaint_shows_the_line_and_points_at_the_place() {
    assert_eq!(
        complaint(&format!("{HEAD}mtu = 70000\n")),
        "f.toml:4:7: mtu 70000 is out of range\n  \
           4 | mtu = 70000\n    \
             |       ^^^^^ write 68 to 65521"
    );
    // Columns are characters, and a tab stays a tab so that the caret stands right.
    assert_eq!(
        complaint("[[link]]\nname = \"bl0\"\n\t'transport' = \"ünix:/é\"\t# ü\n"),
        "f.toml:3:16: there is no transport \"ünix:/é\"\n  \
           3 | \t'transport' = \"ünix:/é\"\t# ü\n    \
             | \t              ^^^^^^^^^ write it as \"shm:/run/boardlane/slot0.sock\""
    );
}

#[test]
fn a_long_line_is_cut_around_the_place() {
    let entries = "\"CSUM\", ".repeat(100);
    let said = complaint(&format!("{HEAD}features_off = [{entries}\"NONE\"]\n"));
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("f.toml:4:817: there is no feature \"NONE\""), "{said}");
    assert!(lines[1].chars().count() < 140, "{said}");
    let caret = lines[2].find('^').unwrap();
    assert_eq!(&lines[1][caret..caret + 6], "\"NONE\"");
}

#[test]
fn all_problems_are_told_in_the_order_of_the_file() {
    let second =
        "[[link]]\nslot = 1\ntransport = \"shm://./a\"\nname = \"bl0\"\n[[link]]\nslot = 1\n";
    let said = complaint(&format!("{HEAD}{second}"));
    let first_lines: Vec<&str> = said.lines().step_by(3).collect();
    assert_eq!(
        first_lines,
        [
            "f.toml:6:13: transport \"shm:/a\" stands on line 3 already",
            "f.toml:7:8: name \"bl0\" stands on line 2 already",
            "f.toml:8:1: this link has no name",
            "f.toml:8:1: this link has no transport",
            "f.toml:9:8: slot \"1\" stands on line 5 already",
        ]
    );
    let many = format!("{HEAD}{}", (0..50).map(|i| format!("x{i} = 1\n")).collect::<String>());
    let error = parse(&many).unwrap_err();
    assert_eq!(error.count(), 50);
    assert!(error.to_string().ends_with("f.toml: and 30 more"), "{error}");
}

#[test]
fn a_file_without_links_is_told_how_to_have_one() {
    let add = "add a [[link]] with name and transport";
    let array = "write [[link]] above the keys of each link";
    for (text, what, remedy) in [
        ("", "1:1: there is no link", add),
        ("control = \"/a\"\n\n", "1:15: there is no link", add),
        ("link = []", "1:8: there is no link", add),
        ("[link]\nname = \"a\"", "1:2: link is a table", array),
        ("link = [1]", "1:9: this link is a whole number", array),
    ] {
        let said = complaint(text);
        assert!(said.starts_with(&format!("f.toml:{what}\n")), "{said}");
        assert!(said.ends_with(&format!("^ {remedy}")), "{said}");
    }
}

#[test]
fn a_file_that_is_not_text_is_told_where() {
    let path = std::env::temp_dir().join(format!("bl-text-{}.toml", std::process::id()));
    std::fs::write(&path, b"# a\n# \xff\xff\n").unwrap();
    let error = Config::load(&path, Role::Master).unwrap_err();
    std::fs::write(&path, vec![b'#'; 1 << 21]).unwrap();
    let large = Config::load(&path, Role::Master).unwrap_err();
    std::fs::remove_file(&path).unwrap();
    let gone = Config::load(&path, Role::Master).unwrap_err();
    let ConfigError::Invalid { problems, .. } = &error else { panic!("{error}") };
    assert_eq!((problems[0].line, problems[0].column), (2, 3));
    assert!(matches!(large, ConfigError::TooLarge { .. }), "{large}");
    assert!(matches!(gone, ConfigError::Read { .. }), "{gone}");
}

#[test]
fn a_config_cannot_write_to_the_terminal() {
    let said = complaint("x = \"\x1b[2J\"\n");
    assert!(!said.contains('\x1b'), "{said:?}");
    let said = complaint(&HEAD.replace("shm:/a", "\\u001b[2J"));
    assert!(!said.contains('\x1b'), "{said:?}");
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_fail(
        of_many in any::<bool>(),
        cuts in prop::collection::vec((0..FULL.len(), 0..12_usize, "[\\[\\]{}=\"',.#\\n\\t é\\-0-9a-z]{0,6}"), 0..5)
    ) {
        let mut text = if of_many { slots::MANY } else { FULL }.to_owned();
        for (at, len, new) in cuts {
            let at = (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap();
            let end = (at + len..=text.len()).find(|&end| text.is_char_boundary(end));
            text.replace_range(at..end.unwrap_or(text.len()), &new);
        }
        match parse(&text) {
            Ok(config) => prop_assert_eq!(parse(&config.expand(&[])).unwrap(), config),
            Err(error) => {
                let ConfigError::Invalid { problems, .. } = &error else { panic!("{error}") };
                prop_assert!(!problems.is_empty());
                let lines = text.split('\n').count();
                prop_assert!(problems.iter().all(|problem| problem.line <= lines));
            }
        }
    }
}
