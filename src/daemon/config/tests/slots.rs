//! What many links share: `slots`, `[defaults]` and `pool`.

use super::*;

/// A crate of 64 boards, lines 1 to 9.
const CRATE: &str = r#"pool = { v4 = "10.77.0.0/16", prefix = 30, v6 = "fd77::/48" }
[defaults]
mtu = 9000
heartbeat_ms = 100
[[link]]
slots = "0-63"
name = "bl{slot}"
transport = "shm:/run/boardlane/slot{slot}.sock"
netns = "crate"
"#;

/// With all that can be said of many links.
pub(super) const MANY: &str = r#"pool = { v4 = "10.77.0.0/24", prefix = 31, v6 = "fd77::/56" }
[defaults]
netns = "b{slot:02x}"
allow_ip = ["peer", "pool", "fe80::/10"]
[[link]]
slots = "0-3,8,10-11"
name = "bl{slot}"
transport = "shm:/slot{slot:02}"
route = [{ to = "pool", via = "peer" }, { to = "10.80.{slot}.0/24", via = "peer" }]
[[link]]
slot = 8
mac = "02:00:00:00:00:{slot:02x}"
[[link]]
name = "bl2"
address = []
route = []
allow_ip = ["10.77.0.0/24"]
[[link]]
slot = 13
name = "x"
transport = "shm:/x"
"#;

fn links(text: &str) -> Vec<LinkConfig> {
    parse(text).unwrap_or_else(|error| panic!("{error}")).links
}

fn shown(link: &LinkConfig) -> Vec<String> {
    let routes = link.routes.iter().map(|route| format!("to {route}"));
    link.addresses.iter().map(ToString::to_string).chain(routes).collect()
}

/// First lines of what is said about `text`, without the file's name.
fn told(text: &str) -> Vec<String> {
    let said = complaint(text);
    let lines = said.lines().filter_map(|line| line.strip_prefix("f.toml:"));
    lines.map(str::to_owned).collect()
}

#[test]
fn an_entry_of_many_slots_is_a_link_in_each() {
    let links = links(CRATE);
    assert_eq!(links.len(), 64);
    for (slot, link) in (0..).zip(&links) {
        assert_eq!((link.slot, link.name.clone()), (Some(slot), format!("bl{slot}")));
        let socket = PathBuf::from(format!("/run/boardlane/slot{slot}.sock"));
        assert_eq!(link.transport, Transport::Shm(socket));
        assert_eq!((link.mtu, link.heartbeat_ms), (Some(9000), 100));
        assert_eq!(link.netns, Some(Netns::Name("crate".into())));
    }
    assert_eq!(shown(&links[0]), ["10.77.0.1/30", "fd77::1/64"]);
    assert_eq!(shown(&links[63]), ["10.77.0.253/30", "fd77:0:0:3f::1/64"]);
}

#[test]
fn both_ends_of_a_link_fit_by_the_same_pool() {
    let template = |slot: u32, prefix: u32| {
        format!(
            "pool = {{ v4 = \"10.77.0.0/16\", prefix = {prefix}, v6 = \"fd77::/48\" }}\n[[link]]\n\
             slot = {slot}\nname = \"bl0\"\ntransport = \"shm:/s{{slot}}\"\n\
             route = [{{ to = \"pool\", via = \"peer\", metric = 5 }}]\nallow_ip = [\"peer\", \"fe80::/10\"]\n"
        )
    };
    let ends = |slot, prefix| {
        [Role::Master, Role::Agent].map(|role| {
            let config = Config::parse("f.toml", &template(slot, prefix), role);
            config.unwrap_or_else(|error| panic!("{error}")).links.remove(0)
        })
    };
    let [master, board] = ends(7, 30);
    assert_eq!(board.transport, Transport::Shm("/s7".into()));
    assert_eq!(shown(&master)[..2], ["10.77.0.29/30", "fd77:0:0:7::1/64"]);
    assert_eq!(
        shown(&board),
        [
            "10.77.0.30/30",
            "fd77:0:0:7::2/64",
            "to 10.77.0.0/16 via 10.77.0.29 metric 5",
            "to fd77::/48 via fd77:0:0:7::1 metric 5"
        ]
    );
    let allowed: Vec<_> = master.allow_ip.iter().map(IpPrefix::to_string).collect();
    assert_eq!(allowed, ["10.77.0.30/32", "fd77:0:0:7::2/128", "fe80::/10"]);
    // RFC 3021: both addresses of such a network are hosts'.
    let [master, board] = ends(3, 31);
    assert_eq!(
        (&shown(&master)[0], &shown(&board)[0]),
        (&"10.77.0.6/31".into(), &"10.77.0.7/31".into())
    );
    let [master, board] = ends(3, 24);
    assert_eq!(
        (&shown(&master)[0], &shown(&board)[0]),
        (&"10.77.3.1/24".into(), &"10.77.3.2/24".into())
    );
}

#[test]
fn a_route_by_the_peer_is_of_the_families_that_it_can_be_of() {
    let pool = "pool = { v4 = \"10.77.0.0/16\", v6 = \"fd77::/48\" }\n[[link]]\nname = \"a\"\n\
                transport = \"shm:/slot2.sock\"\n";
    for (route, routes) in [
        (
            r#"{ to = "default", via = "peer" }"#,
            &["to 0.0.0.0/0 via 10.77.0.10", "to ::/0 via fd77:0:0:2::2"][..],
        ),
        (r#"{ to = "10.80.0.0/24", via = "peer" }"#, &["to 10.80.0.0/24 via 10.77.0.10"]),
        (r#"{ to = "fd80::/64", via = "peer" }"#, &["to fd80::/64 via fd77:0:0:2::2"]),
        (r#"{ to = "pool" }"#, &["to 10.77.0.0/16", "to fd77::/48"]),
        (r#"{ to = "10.80.0.0/24", via = "10.77.0.10" }"#, &["to 10.80.0.0/24 via 10.77.0.10"]),
    ] {
        let links = links(&format!("{pool}route = [{route}]\n"));
        assert_eq!(shown(&links[0])[2..], *routes, "{route}");
    }
}

#[test]
fn a_link_with_addresses_of_its_own_or_without_a_netdev_takes_none_of_the_pool() {
    for line in ["address = []", "port = \"echo\""] {
        let pool = "pool = { v4 = \"10.77.0.0/16\" }\n";
        let links = links(&format!("{pool}{HEAD}{line}\n"));
        assert_eq!(shown(&links[0]), [""; 0], "{line}");
    }
    let own = links(&format!("{CRATE}[[link]]\nslot = 3\naddress = [\"192.0.2.1/30\"]\n"));
    assert_eq!(shown(&own[3]), ["192.0.2.1/30"]);
}

#[test]
fn an_entry_with_a_patterns_slot_or_name_takes_the_rest_from_it() {
    let text = format!(
        "{CRATE}[[link]]\nslot = 3\nname = \"spare\"\nmtu = 1400\n[[link]]\nname = \"bl5\"\nqueues = 2\n\
         [[link]]\nname = \"other\"\nslot = 100\ntransport = \"shm:/other\"\n"
    );
    let (plain, links) = (links(CRATE), links(&text));
    assert_eq!(links.len(), 65);
    for (link, plain) in links.iter().zip(&plain) {
        let mut expected = plain.clone();
        match link.slot {
            Some(3) => (expected.name, expected.mtu) = ("spare".into(), Some(1400)),
            Some(5) => expected.queues = 2,
            _ => {}
        }
        assert_eq!(*link, expected);
    }
    assert_eq!((&links[64].name[..], links[64].mtu), ("other", Some(9000)));
}

#[test]
fn the_slots_number_may_have_leading_zeros_or_be_hexadecimal() {
    let link = |name: &str, slots: &str| {
        format!(
            "[[link]]\nslots = \"{slots}\"\nname = \"{name}\"\ntransport = \"shm:/s{{slot}}\"\n"
        )
    };
    let all = links(&(link("b{slot:02}", "8-9, 12,100") + "mac = \"02:00:00:00:00:{slot:02x}\"\n"));
    let names: Vec<_> = all.iter().map(|link| link.name.as_str()).collect();
    assert_eq!(names, ["b08", "b09", "b12", "b100"]);
    assert_eq!(all[3].mac, Some([2, 0, 0, 0, 0, 100]));
    let all = links(&link("{slot}-{slot:03x}.x", "171"));
    assert_eq!(all[0].name, "171-0ab.x");
}

#[test]
fn what_is_wrong_in_the_defaults_is_told_once_at_its_own_place() {
    let text = CRATE.replace("9000", "1").replace("heartbeat_ms", "hartbeat");
    let more = "[[link]]\nname = \"a\"\nslot = 77\ntransport = \"shm:/a\"\nkeep = true\n";
    let expected = ["3:7: mtu 1 is out of range", "4:1: unknown key \"hartbeat\""];
    assert_eq!(told(&format!("{text}{more}")), expected);
    // And a link's own value goes before it, whole.
    let link = links(&format!(
        "[defaults]\nmtu = 1500\nfeatures_off = [\"RING_PACKED\"]\n{HEAD}features_off = []\n"
    ));
    assert_eq!((link[0].mtu, link[0].features_off.len()), (Some(1500), 0));
    for (text, expected) in [
        ("defaults = 1\n", "1:1: defaults is a whole number"),
        ("[defaults]\nname = \"a\"\n", "2:1: name is each link's own"),
        ("[defaults]\nslots = \"1\"\n", "2:1: slots is each link's own"),
        ("[defaults]\ncontrol = \"/a\"\n", "2:1: unknown key \"control\""),
        (
            "[defaults]\nnetns = \"b{slot}\"\n",
            "2:9: {slot} is the slot's number, and this link does not say which",
        ),
    ] {
        assert_eq!(told(&format!("{text}{HEAD}")), [expected]);
    }
}

#[test]
fn what_is_wrong_in_an_entry_of_many_slots_is_told_once() {
    for (line, expected) in [
        ("mtu = 1", "10:7: mtu 1 is out of range"),
        ("features_off = [\"X{slot}\"]", "10:17: there is no feature \"X0\""),
        ("alow_ip = [\"10.0.0.1\"]", "10:1: unknown key \"alow_ip\""),
        ("slot = 3", "10:1: slot is for one link, and slots makes many"),
        (
            "route = [{ to = \"10.80.0.0/24\" }]",
            "10:17: route to \"10.80.0.0/24\" is given to several links",
        ),
        ("address = [\"10.0.0.1/24\"]", "10:12: address \"10.0.0.1\" is given to several links"),
        ("mac = \"{slot:2}\"", "10:7: there is no such form of {slot}"),
        ("mac = \"{slot\"", "10:7: there is no such form of {slot}"),
    ] {
        assert_eq!(told(&format!("{CRATE}{line}\n")), [expected], "{line}");
    }
    let same = CRATE.replace("bl{slot}", "bl").replace("slot{slot}.sock", "a");
    let expected = [
        "7:8: name \"bl\" is given to several links",
        "8:13: transport \"shm:/run/boardlane/a\" is given to several links",
    ];
    assert_eq!(told(&same), expected);
    let long = CRATE.replace("bl{slot}", "fourteen-bytes{slot}");
    assert_eq!(told(&long), ["7:8: the name \"fourteen-bytes10\" has 16 bytes"]);
}

#[test]
fn slots_that_make_no_sense_are_refused() {
    let each = "write each slot once, as \"0-3,8,10-11\"";
    let form = "write slots as \"0-15\" or \"0-3,8,10-11\"";
    for (slots, what, remedy) in [
        ("\"\"", "\"\" is neither a slot's number nor a range", form),
        ("\"0-\"", "\"0-\" is neither a slot's number nor a range", form),
        ("\"1,x\"", "\"x\" is neither a slot's number nor a range", form),
        ("\"+1\"", "\"+1\" is neither a slot's number nor a range", form),
        ("\"2147483648\"", "\"2147483648\" is neither a slot's number nor a range", form),
        ("\"5-3\"", "5-3 runs backwards", each),
        ("\"0-3,2\"", "slot 2 stands here twice", each),
        ("\"0-256\"", "these are more than 256 slots", each),
        ("\"0-2147483647\"", "these are more than 256 slots", each),
        ("3", "slots is a whole number", "write it as slots = \"0-15\""),
    ] {
        let said = complaint(&CRATE.replace("\"0-63\"", slots));
        assert!(said.starts_with(&format!("f.toml:6:9: {what}\n")), "{said}");
        assert!(said.ends_with(&format!("^ {remedy}")), "{said}");
    }
    let more = "[[link]]\nslots = \"100-299\"\nname = \"x{slot}\"\ntransport = \"shm:/x{slot}\"\n";
    assert_eq!(told(&format!("{CRATE}{more}")), ["10:1: with this there are more than 256 links"]);
    let huge = format!("features_off = [{}]\n", "\"RING_PACKED\",".repeat(70_000));
    assert_eq!(told(&format!("{CRATE}{huge}")), ["5:1: with this the links are more than 4 MiB"]);
    let long = CRATE.replace("0-63", "0-127").replace("bl{slot}", &"{slot}".repeat(100_000));
    let own = (0..128).map(|n| format!("[[link]]\nname = \"a{n}\"\n")).collect::<String>();
    let said = complaint(&format!("{long}{own}"));
    assert!(said.contains("f.toml:7:8: the name "), "{said}");
}

#[test]
fn two_links_of_one_name_slot_or_address_are_told_with_both_lines() {
    let link = |keys: &str| format!("{CRATE}[[link]]\n{keys}\n");
    let other = "transport = \"shm:/a\"\nnetns = \"crate\"\n";
    for (text, expected) in [
        (
            link(&format!("name = \"bl3\"\nslot = 99\n{other}")),
            vec!["11:8: name \"bl3\" stands on line 7 already"],
        ),
        (
            link(&format!("name = \"a\"\nslot = 99\naddress = [\"10.77.0.5/30\"]\n{other}")),
            vec!["13:12: address \"10.77.0.5\" stands on line 1 already"],
        ),
        (
            link("slot = 3\nmtu = 1400\n[[link]]\nname = \"bl3\""),
            vec!["13:1: slot 3 has its own entry on line 10 already"],
        ),
        (
            link("slots = \"63-64\"\nname = \"x{slot}\"\ntransport = \"shm:/x{slot}\""),
            vec!["11:9: slot \"63\" stands on line 6 already"],
        ),
        (
            link("name = \"a\"\ntransport = \"shm:/b/slot63.sock\""),
            vec!["12:13: slot \"63\" stands on line 6 already"],
        ),
    ] {
        assert_eq!(told(&text), expected);
    }
    // The other way round: what was written by hand comes first.
    let own = format!("[[link]]\nname = \"a\"\nslot = 99\naddress = [\"10.77.0.5/30\"]\n{other}");
    let text = CRATE.replacen("[[link]]", &(own + "[[link]]"), 1);
    assert_eq!(told(&text), ["1:15: address \"10.77.0.5\" stands on line 8 already"]);
}

#[test]
fn a_pool_that_is_wrong_or_too_small_is_told_at_its_place() {
    let pool = |pool: &str| {
        let (_, rest) = CRATE.split_once('\n').unwrap();
        format!("pool = {pool}\n{rest}route = [{{ to = \"pool\", via = \"peer\", metric = 1 }}]\n")
            .replace("netns = \"crate\"", "netns = \"crate{slot}\"")
    };
    for (text, what, remedy) in [
        (
            "{ v4 = \"10.77.0.0/28\" }",
            "1:15: 10.77.0.0/28 has 4 networks of /30, and slot 63 needs 64",
            "write a network of /24, or a larger one",
        ),
        (
            "{ v6 = \"fd77::/60\" }",
            "1:15: fd77::/60 has 16 networks of /64, and slot 63 needs 64",
            "write a network of /58, or a larger one",
        ),
        (
            "{ v4 = \"10.77.0.0/31\" }",
            "1:15: 10.77.0.0/31 has no network of /30",
            "write a network of /30, or a larger one",
        ),
        (
            "{ v4 = \"10.77.0.1/16\" }",
            "1:15: 10.77.0.1/16 has bits behind its prefix",
            "write \"10.77.0.0/16\"",
        ),
        (
            "{ v4 = \"fd77::/48\" }",
            "1:15: fd77::/48 is not of IPv4",
            "write it as v4 = \"10.77.0.0/16\"",
        ),
        (
            "{ v4 = \"10.0.0.0/8\", prefix = 32 }",
            "1:38: prefix 32 is out of range",
            "write 1 to 31",
        ),
        (
            "{ v6 = \"fd77::/48\", prefix = 30 }",
            "1:37: prefix is of links' networks in v4, which this pool does not have",
            "take it out",
        ),
        (
            "{ v4 = \"0.0.0.0/8\" }",
            "1:15: 0.0.0.1 is not a host's address",
            "write a host's, as \"10.77.0.1/30\" or \"fd77::1/64\"",
        ),
        ("{}", "1:8: this pool has no addresses", "add v4 = \"10.77.0.0/16\""),
        (
            "\"10.77.0.0/16\"",
            "1:8: pool is a string",
            "write it as pool = { v4 = \"10.77.0.0/16\", prefix = 30, v6 = \"fd77::/48\" }",
        ),
    ] {
        let said = complaint(&pool(text));
        assert!(said.starts_with(&format!("f.toml:{what}\n")), "{said}");
        assert!(said.ends_with(&format!("^ {remedy}")), "{said}");
        assert_eq!(said.lines().count(), 3, "one problem only: {said}");
    }
    let unnumbered = format!("pool = {{ v4 = \"10.77.0.0/16\" }}\n{HEAD}");
    assert_eq!(
        told(&unnumbered),
        ["2:1: this link has no slot's number, by which it would have its addresses"]
    );
}

#[test]
fn words_of_the_pool_mean_nothing_without_its_addresses() {
    let word = "this word is for links with addresses of a pool of that family";
    for (pool, line, what) in [
        (
            "",
            "route = [{ to = \"10.80.0.0/24\", via = \"peer\" }]",
            "4:39: \"peer\" is not an IP address",
        ),
        ("", "allow_ip = [\"pool\"]", "4:13: \"pool\" is not an address with a prefix length"),
        (
            "pool = { v4 = \"10.77.0.0/16\" }\n",
            "slot = 1\nroute = [{ to = \"fd80::/64\", via = \"peer\" }]",
            "6:36: \"peer\" is not an IP address",
        ),
    ] {
        let said = complaint(&format!("{pool}{HEAD}{line}\n"));
        assert!(said.starts_with(&format!("f.toml:{what}\n")), "{said}");
        assert!(said.ends_with(&format!("^ {word}")), "{said}");
    }
}

#[test]
fn what_expand_writes_of_a_crate_is_a_config_with_nothing_left_to_work_out() {
    let board = CRATE.replace("0-63", "17") + "route = [{ to = \"pool\", via = \"peer\" }]\n";
    let texts = [(Role::Master, CRATE), (Role::Agent, &board), (Role::Master, MANY)];
    for (role, text) in texts {
        let config = Config::parse("f.toml", text, role).unwrap();
        let expanded = config.expand(&[]);
        assert!(!expanded.contains("{slot}") && !expanded.contains("\npool"), "{expanded}");
        let again = Config::parse("f.toml", &expanded, role).expect(&expanded);
        assert_eq!(again, config);
        assert_eq!(again.expand(&[]), expanded);
    }
}

#[cfg(feature = "pci")]
#[test]
fn a_pattern_of_functions_has_defaults_and_no_slots() {
    let bus = "[[link]]\nname = \"bl*\"\ntransport = \"pci:0000:03:*\"\n";
    let text = format!("pool = {{ v4 = \"10.77.0.0/16\" }}\n[defaults]\nmtu = 9000\n{bus}");
    let config = parse(&text).unwrap();
    let link = config.link_named("blp3s0").unwrap();
    assert_eq!((link.mtu, link.addresses.len()), (Some(9000), 0));
    let expected = "4:9: slots makes links, and so does the pattern of the transport";
    assert_eq!(told(&format!("{bus}slots = \"0-3\"\n")), [expected]);
}
