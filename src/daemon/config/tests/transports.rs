//! What a transport is, and what may stand beside it.

use super::super::VhostUser;
use super::*;

fn read(transport: &str, lines: &str, role: Role) -> Result<LinkConfig, String> {
    let text = format!("[[link]]\nname = \"bl0\"\ntransport = \"{transport}\"\n{lines}");
    let config = Config::parse("f.toml", &text, role).map_err(|error| error.to_string())?;
    Ok(config.links[0].clone())
}

#[test]
fn an_agent_listens_for_a_vhost_user_peer_and_a_master_connects_unless_it_says_so() {
    use Role::{Agent, Master};
    use SocketSide::{Client, Server};
    for (role, text, path, how) in [
        (Agent, "/run/a.sock", "/run/a.sock", Server),
        (Master, "/run/a.sock", "/run/a.sock", Client),
        (Agent, "a.sock?client", "a.sock", Client),
        (Master, "/a?b?server", "/a?b", Server),
        (Agent, "/a?server", "/a", Server),
        (Master, "/a?client", "/a", Client),
    ] {
        let link = read(&format!("vhost-user:{text}"), "", role).unwrap();
        assert_eq!(
            link.transport,
            Transport::VhostUser { path: path.into(), how, built: VhostUser },
            "{text}"
        );
        assert_eq!(link.transport.to_string(), format!("vhost-user:{path}?{how}"));
        // The other role's program means the same by it.
        assert_eq!(read(&link.transport.to_string(), "", Agent).unwrap(), link);
        assert_eq!(read(&link.transport.to_string(), "", Master).unwrap(), link);
    }
}

#[test]
fn a_vhost_user_link_may_say_all_that_is_not_a_tunnels() {
    let lines = "socket_mode = \"0666\"\nsocket_owner = \":1000\"\nslot = 3\nqueues = 4\n\
                 dma = \"engine\"\nengine = { depth = 8 }\nheartbeat_ms = 100\nrate = \"1M\"\n";
    let link = read("vhost-user:/a?server", lines, Role::Agent).unwrap();
    assert_eq!((link.socket.mode, link.socket.owner.gid), (0o666, Some(1000)));
    assert_eq!((link.slot, link.known_slot()), (Some(3), Some(3)));
    for (transport, lines) in
        [("vhost-user:/a?server", lines), ("vhost-user:/a?client", ""), ("vhost-user:/a", "")]
    {
        let text = format!("[[link]]\nname = \"bl0\"\ntransport = \"{transport}\"\n{lines}");
        let config = Config::parse("f.toml", &text, Role::Agent).unwrap();
        let expanded = config.expand(&[]);
        for role in [Role::Agent, Role::Master] {
            let again = Config::parse("f.toml", &expanded, role).expect(&expanded);
            assert_eq!((again.links, &again.control), (config.links.clone(), &config.control));
        }
        assert!(expanded.contains("\n# dialect = none with vhost-user\n"), "{expanded}");
    }
}

#[test]
fn what_does_not_go_with_a_transport_is_refused_beside_it() {
    let out = "take this line out";
    for (transport, lines, what, remedy) in [
        ("vhost-user:", "", "3:13: this is not the path of a socket", "write a file's path"),
        ("vhost-user:?server", "", "3:13: this is not the path of a socket", "write a file's path"),
        ("vhost-user:/a?sever", "", "3:13: vhost-user: has no \"?sever\"", "did you mean ?server?"),
        (
            "vhost-user:/a?x",
            "",
            "3:13: vhost-user: has no \"?x\"",
            "write ?client or ?server behind the path, or nothing",
        ),
        (
            "vhost-user:/a",
            "dialect = \"v2\"",
            "4:1: dialect speaks of a boardlane program at the other end, and vhost-user: need not \
             have one",
            out,
        ),
        (
            "vhost-user:/a",
            "layout = \"boardlane\"",
            "4:1: layout speaks of a boardlane program at the other end, and vhost-user: need not \
             have one",
            out,
        ),
        (
            "vhost-user:/a",
            "dma = \"engine\"\nengine = { dma_only = true }",
            "5:23: dma_only puts rings into a window, and vhost-user: has none",
            "take dma_only out",
        ),
        (
            "vhost-user:/a?client",
            "socket_mode = \"0660\"",
            "4:1: socket_mode speaks of a socket, and the other end makes this one",
            out,
        ),
        (
            "shm:/a",
            "socket_owner = \"root\"",
            "4:1: socket_owner speaks of a socket that a vhost-user: link makes",
            out,
        ),
        (
            "vhost-user:/a?server",
            "socket_mode = \"rw\"",
            "4:15: \"rw\" is not a socket's mode",
            "write three octal digits, as \"0660\"",
        ),
    ] {
        let said = read(transport, lines, Role::Agent).expect_err(lines);
        let said: Vec<&str> = said.lines().collect();
        assert_eq!(said.len(), 3, "one problem only: {said:#?}");
        assert_eq!(said[0], format!("f.toml:{what}"));
        assert!(said[2].ends_with(&format!("^ {remedy}")), "{said:#?}");
    }
}

#[cfg(feature = "pci")]
#[test]
fn a_pci_function_is_named_by_its_address_or_is_any_by_vfio_or_by_sysfs() {
    for (text, written) in [
        ("0000:00:03.0", "0000:00:03.0"),
        ("3:1f.7", "0000:03:1f.7"),
        ("10000:E1:00.0?vfio", "10000:e1:00.0?vfio"),
        ("00:03.0?sysfs", "0000:00:03.0?sysfs"),
        ("auto", "auto"),
        ("auto?vfio", "auto?vfio"),
    ] {
        for role in [Role::Agent, Role::Master] {
            let link = read(&format!("pci:{text}"), "", role).unwrap();
            assert_eq!(link.transport.to_string(), format!("pci:{written}"));
            assert_eq!(read(&link.transport.to_string(), "", role).unwrap(), link);
        }
    }
}

#[cfg(feature = "pci")]
#[test]
fn what_names_no_pci_function_is_refused() {
    let address = "write DOMAIN:BUS:DEV.FN, as 0000:00:03.0, or BUS:DEV.FN in domain 0; or auto";
    for (transport, lines, what, remedy) in [
        ("pci:", "", "3:13: \"\" is not a PCI function's address", address),
        ("pci:03:00", "", "3:13: \"03:00\" is not a PCI function's address", address),
        ("pci:00:20.0", "", "3:13: \"00:20.0\" is not a PCI function's address", address),
        ("pci:auto?sysf", "", "3:13: pci: has no \"?sysf\"", "did you mean ?sysfs?"),
        (
            "pci:auto?",
            "",
            "3:13: pci: has no \"?\"",
            "write ?vfio or ?sysfs behind the address, or nothing",
        ),
        (
            "pci:auto",
            "socket_mode = \"0660\"",
            "4:1: socket_mode speaks of a socket that a vhost-user: link makes",
            "take this line out",
        ),
        (
            "pci:auto",
            "pump = \"vhost-net\"",
            "3:1: vhost-net serves links over shm: only in this version",
            "take this line out, or write pump = \"builtin\"",
        ),
    ] {
        let said = read(transport, lines, Role::Agent).expect_err(transport);
        let said: Vec<&str> = said.lines().collect();
        assert_eq!(said.len(), 3, "one problem only: {said:#?}");
        assert_eq!(said[0], format!("f.toml:{what}"));
        assert!(said[2].ends_with(&format!("^ {remedy}")), "{said:#?}");
    }
}

#[cfg(feature = "pci")]
#[test]
fn two_links_do_not_share_a_function_but_each_may_have_any() {
    let link = |name: &str, function: &str| {
        format!("[[link]]\nname = \"{name}\"\ntransport = \"pci:{function}\"\n")
    };
    let said = complaint(&(link("a", "0000:00:03.0?vfio") + &link("b", "0:3.0?sysfs")));
    let what = "f.toml:6:13: transport \"pci:0000:00:03.0\" stands on line 3 already\n";
    assert!(said.starts_with(what), "{said}");
    assert!(said.ends_with("^ give each link its own function"), "{said}");
    assert!(parse(&(link("a", "0:3.0") + &link("b", "0:3.1") + &link("c", "0:4.0"))).is_ok());
    assert!(parse(&(link("a", "auto") + &link("b", "auto") + &link("c", "0:4.0"))).is_ok());
}

#[test]
fn two_links_do_not_share_a_socket_whoever_makes_it() {
    let link = |name: &str, socket: &str| {
        format!("[[link]]\nname = \"{name}\"\ntransport = \"vhost-user:{socket}\"\n")
    };
    let said = complaint(&(link("a", "/s/a") + &link("b", "/s//./a?server")));
    let what = "f.toml:6:13: transport \"vhost-user:/s/a\" stands on line 3 already\n";
    assert!(said.starts_with(what), "{said}");
    assert!(said.ends_with("^ give each link its own socket"), "{said}");
    assert!(parse(&(link("a", "/s/a") + &link("b", "/s/b"))).is_ok());
}
