//! Entries that stand for many links.

use super::*;

/// A config of entries that are given as name, transport and further lines.
fn config(entries: &[(&str, &str, &str)]) -> Result<Config, String> {
    let entry = |(name, transport, lines): &(&str, &str, &str)| {
        format!("[[link]]\nname = \"{name}\"\ntransport = \"{transport}\"\n{lines}\n")
    };
    parse(&entries.iter().map(entry).collect::<String>()).map_err(|error| error.to_string())
}

fn addresses(texts: &[&str]) -> Vec<Address> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// Names and transports of the links where these functions are.
fn links(config: &Config, there: &[&str]) -> Vec<String> {
    let links = config.links_with(&addresses(there));
    links.iter().map(|link| format!("{} {}", link.name, link.transport)).collect()
}

#[test]
fn a_pattern_makes_a_link_of_each_function_that_it_covers_by_its_place() {
    let there = [
        "0000:00:03.0",
        "0000:03:00.0",
        "0000:03:00.1",
        "0000:03:1f.7",
        "0000:fe:00.0",
        "0001:03:00.0",
        "0002:03:00.3",
    ];
    let found = |name, pattern| links(&config(&[(name, pattern, "")]).unwrap(), &there);
    let bus =
        ["blp3s0 pci:0000:03:00.0", "blp3s0f1 pci:0000:03:00.1", "blp3s31f7 pci:0000:03:1f.7"];
    assert_eq!(found("bl*", "pci:0000:03:*"), bus);
    assert_eq!(found("bl*", "pci:0000:03:00.*"), bus[..2]);
    assert_eq!(found("*x", "pci:0001:*?vfio"), ["P1p3s0x pci:0001:03:00.0?vfio"]);
    let all = found("bl*", "pci:*?sysfs");
    assert_eq!(all.len(), there.len());
    assert_eq!(all[0], "blp0s3 pci:0000:00:03.0?sysfs");
    assert_eq!(all[6], "blP2p3s0f3 pci:0002:03:00.3?sysfs");
    assert!(found("bl*", "pci:0000:04:*").is_empty());
}

#[test]
fn a_link_of_a_pattern_is_as_its_entry_says() {
    let lines = "mtu = 9000\nqueues = 2\nkeep = true\nallow_ip = [\"10.77.0.2\"]";
    let config = config(&[("a", "shm:/a", ""), ("bl*", "pci:0000:03:*", lines)]).unwrap();
    let [fixed, link] = &config.links_with(&addresses(&["0000:03:02.1"]))[..] else { panic!() };
    assert_eq!(*fixed, config.links[0]);
    assert_eq!((link.mtu, link.queues, link.keep, link.allow_ip.len()), (Some(9000), 2, true, 1));
    // It is the same one by its name, there or not, and no other name is one.
    assert_eq!(config.link_named("blp3s2f1").as_ref(), Some(link));
    assert_eq!(config.link_named("a").as_ref(), Some(fixed));
    for name in [
        "bl*", "blp4s2", "blp3s02", "blp3s2f0", "blP0p3s2", "blp3s32", "blp3s2f8", "blp3s", "bl",
        "", "p3s2", "blp3s2x", "blp+3s2", "blp3s2f", "../p3s2",
    ] {
        assert_eq!(config.link_named(name), None, "{name}");
    }
}

#[test]
fn the_number_of_a_slot_says_where_its_function_is() {
    let pattern = config(&[("a", "shm:/a", ""), ("bl*", "pci:*", "")]).unwrap();
    let there = addresses(&["0000:00:00.0", "0000:03:00.0", "7fff:ff:1f.7"]);
    let slots = |config: &Config, there: &[Address]| -> Vec<u32> {
        let links = config.links_with(there);
        links.iter().enumerate().map(|(at, link)| link.slot_at(at)).collect()
    };
    // The last one's name would be too long.
    assert_eq!(slots(&pattern, &there), [0, 0x8000_0000, 0x8000_0300]);
    let turned: Vec<_> = there.iter().rev().copied().collect();
    assert_eq!(slots(&pattern, &turned), [0, 0x8000_0300, 0x8000_0000]);
    let pattern = config(&[("*", "pci:7fff:*", "")]).unwrap();
    assert_eq!(slots(&pattern, &there), [0xffff_ffff]);
    let pattern = config(&[("*", "pci:8000:*", "")]).unwrap();
    let there = addresses(&["8000:00:00.0", "7fff:00:00.0"]);
    assert_eq!(slots(&pattern, &there), [0; 0], "there is no number for it");
    assert_eq!(pattern.nameless(&there), ["8000:00:00.0"]);
}

#[test]
fn an_entry_of_its_own_has_its_function_to_itself() {
    let both = [("a", "pci:0000:03:00.0", ""), ("bl*", "pci:0000:03:*", "")];
    let both = config(&both).unwrap();
    let there = ["0000:03:00.0", "0000:03:01.0"];
    assert_eq!(links(&both, &there), ["a pci:0000:03:00.0", "blp3s1 pci:0000:03:01.0"]);
    assert_eq!(both.link_named("blp3s0"), None);
    // It may be absent, and the MAC addresses are those that it would have by the pattern.
    assert_eq!(links(&both, &[]), ["a pci:0000:03:00.0"]);
    let pattern = config(&[("bl*", "pci:0000:03:*", "")]).unwrap();
    let by_pattern = pattern.link_named("blp3s0").unwrap();
    assert_eq!(by_pattern.known_slot(), both.links[0].known_slot());
}

#[test]
fn of_two_patterns_that_give_one_name_the_first_has_it() {
    let config = config(&[("b*", "pci:0001:*", ""), ("bP1*", "pci:0000:*", "")]).unwrap();
    let there = ["0000:03:00.0", "0001:03:00.0"];
    assert_eq!(links(&config, &there), ["bP1p3s0 pci:0001:03:00.0"]);
    assert_eq!(config.nameless(&addresses(&there)), ["0000:03:00.0"]);
}

#[test]
fn what_does_not_go_with_a_pattern_is_refused() {
    let bus = "pci:0000:03:*";
    let own = "take this line out: each link's comes from its place on the bus";
    let later =
        "take this line out: networkd, which takes \"bl*\" in [Match] Name=, or ip(8) can set them";
    let forms =
        "write *, 0000:*, 0000:03:* or 0000:03:00.*, and behind it ?vfio, ?sysfs or nothing";
    for (name, transport, lines, what, remedy) in [
        (
            "bl0",
            bus,
            "",
            "2:8: this name is for one link, and a pattern makes many",
            "write one * where the function's place is to stand, as \"bl*\"",
        ),
        (
            "b*l*",
            bus,
            "",
            "2:8: this name is for one link, and a pattern makes many",
            "write one * where the function's place is to stand, as \"bl*\"",
        ),
        (
            "bl*",
            "shm:/a",
            "",
            "2:8: '*' stands for a function's place, and this transport is no pattern",
            "write another name, as \"bl0\", or transport = \"pci:0000:03:*\"",
        ),
        ("boards-*", bus, "", "2:8: the name \"boards-p3s31f7\" has 14 bytes", "-"),
        (
            "boards-xy*",
            bus,
            "",
            "2:8: the name \"boards-xyp3s31f7\" has 16 bytes",
            "a netdev's name has at most 15",
        ),
        (
            "bl*",
            "pci:7fff:*",
            "",
            "2:8: the name \"blP32767p255s31f7\" has 17 bytes",
            "a netdev's name has at most 15",
        ),
        (
            "b/*",
            bus,
            "",
            "2:8: '/' cannot stand in a netdev's name",
            "use letters, digits, - and _",
        ),
        (
            "bl*",
            bus,
            "mac = \"02:00:00:00:00:01\"",
            "4:1: mac is for one link, and a pattern makes many",
            own,
        ),
        ("bl*", bus, "slot = 3", "4:1: slot is for one link, and a pattern makes many", own),
        (
            "bl*",
            bus,
            "address = [\"10.77.0.1/30\"]",
            "4:1: address is for one link, and a pattern makes many",
            later,
        ),
        (
            "bl*",
            bus,
            "route = [{ to = \"10.80.0.0/24\" }]",
            "4:1: route is for one link, and a pattern makes many",
            later,
        ),
        ("bl*", "pci:03:*", "", "3:13: \"03:*\" is no pattern of PCI functions", forms),
        (
            "bl*",
            "pci:0000:*:00.0",
            "",
            "3:13: \"0000:*:00.0\" is no pattern of PCI functions",
            forms,
        ),
        (
            "bl*",
            "pci:0000:03:20.*",
            "",
            "3:13: \"0000:03:20.*\" is no pattern of PCI functions",
            forms,
        ),
        (
            "bl*",
            "pci:0000:03:*?uio",
            "",
            "3:13: \"0000:03:*?uio\" is no pattern of PCI functions",
            forms,
        ),
        ("bl*", "pci:0000:03:**", "", "3:13: \"0000:03:**\" is no pattern of PCI functions", forms),
    ] {
        let read = config(&[(name, transport, lines)]);
        if remedy == "-" {
            assert!(read.is_ok(), "{name}");
            continue;
        }
        let said = read.expect_err(name);
        assert!(said.starts_with(&format!("f.toml:{what}\n")), "{said}");
        assert!(said.ends_with(&format!("^ {remedy}")), "{said}");
        assert_eq!(said.lines().count(), 3, "one problem only: {said}");
    }
}

#[test]
fn entries_do_not_want_the_same_functions_or_names() {
    let pattern = ("bl*", "pci:0000:03:*", "");
    for (other, what, remedy) in [
        (
            ("x*", "pci:0000:03:00.*", ""),
            "7:13: 0000:03:00.0 is of the pattern on line 3, too",
            "write patterns that have no function in common",
        ),
        (
            ("x*", "pci:*", ""),
            "7:13: 0000:03:00.0 is of the pattern on line 3, too",
            "write patterns that have no function in common",
        ),
        (
            ("blp3s7", "shm:/a", ""),
            "6:8: \"blp3s7\" is a name that the pattern on line 2 gives",
            "write another name",
        ),
    ] {
        let said = config(&[pattern, other]).expect_err(what);
        assert!(said.starts_with(&format!("f.toml:{what}\n")), "{said}");
        assert!(said.ends_with(&format!("^ {remedy}")), "{said}");
        assert_eq!(said.lines().count(), 3, "one problem only: {said}");
    }
    let other = ("x*", "pci:0000:04:*", "");
    assert!(config(&[pattern, other, ("blp4s7", "shm:/a", "")]).is_ok());
}

proptest! {
    #[test]
    fn every_function_has_a_name_that_means_it_or_none(
        domain in prop_oneof![0..3_u32, any::<u32>()], place in any::<u16>(), other in "[bPpsf0-9]{0,9}",
    ) {
        let config = config(&[("b*", "pci:*", ""), ("lan", "shm:/a", "")]).unwrap();
        let [bus, devfn] = place.to_be_bytes();
        let address = Address { domain, bus, device: devfn >> 3, function: devfn & 7 };
        let found = config.links_with(&[address]);
        prop_assert!(domain > 99 || found.len() == 2, "it fits");
        prop_assert!(domain < 32768 || found.len() == 1, "there is no number for it");
        for link in &found[1..] {
            prop_assert_eq!(link.transport.to_string(), format!("pci:{address}"));
            let again = config.link_named(&link.name);
            prop_assert_eq!(again.as_ref(), Some(link));
        }
        // Names that look like one mean what would be given that name, or nothing.
        if let Some(link) = config.link_named(&format!("b{other}")) {
            let address = link.transport.to_string().strip_prefix("pci:").unwrap().parse::<Address>();
            prop_assert_eq!(&config.links_with(&[address.unwrap()])[1..], [link]);
        }
    }
}

#[test]
fn an_expanded_pattern_is_one_still_and_says_what_it_is_now() {
    let config =
        config(&[("bl*", "pci:0000:03:*?vfio", "queues = 2"), ("a", "shm:/a", "")]).unwrap();
    let text = config.expand(&addresses(&["0000:03:00.0", "0000:03:04.1", "0000:04:00.0"]));
    assert!(text.contains("\n# now: blp3s0, blp3s4f1\n[[link]]\nname = \"bl*\"\n"), "{text}");
    assert!(config.expand(&[]).contains("\n# now: none\n[[link]]"), "{text}");
    let again = parse(&text).expect(&text);
    assert_eq!((again.links, again.patterns), (config.links, config.patterns));
}
