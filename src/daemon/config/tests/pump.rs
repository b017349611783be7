//! `pump = "vhost-net"`, and what it cannot stand beside.

use super::*;

#[test]
fn vhost_net_is_refused_beside_what_it_cannot_do() {
    let remedy = "take this line out, or write pump = \"builtin\"";
    for (line, what) in [
        ("port = \"echo\"", "vhost-net moves frames to and from a netdev only"),
        ("dma = \"engine\"", "vhost-net copies by itself, not by a DMA engine"),
        ("allow_mac = [\"02:00:00:00:00:02\"]", "vhost-net lets frames pass whosever they are"),
        ("allow_ip = [\"10.0.0.2\"]", "vhost-net lets frames pass whosever they are"),
        ("rate = \"200M\"", "vhost-net moves frames as fast as they come"),
        ("cpu = 0", "vhost-net moves frames by threads of the kernel's"),
    ] {
        let text = format!("{HEAD}pump = \"vhost-net\"\n{line}\n");
        let error = Config::parse("f.toml", &text, Role::Agent).expect_err(line).to_string();
        let said: Vec<&str> = error.lines().collect();
        assert_eq!((said.len(), said[0]), (3, format!("f.toml:5:1: {what}").as_str()), "{error}");
        assert!(said[2].ends_with(&format!("^ {remedy}")), "{error}");
        let other = text.replace("vhost-net", "builtin");
        assert!(Config::parse("f.toml", &other, Role::Agent).is_ok(), "{other}");
    }
    let text = format!("{HEAD}pump = \"vhost-net\"\ndma = \"auto\"\nport = \"tap\"\n");
    let config = Config::parse("f.toml", &text, Role::Agent).unwrap();
    assert_eq!(config.links[0].pump, Pump::VhostNet);
    assert!(config.expand(&[]).contains("\npump = \"vhost-net\"\n"));
    let socket = text.replace("shm:", "vhost-user:");
    let error = Config::parse("f.toml", &socket, Role::Agent).unwrap_err().to_string();
    let what = "f.toml:3:1: vhost-net serves links over shm: only in this version\n";
    assert!(error.starts_with(what), "{error}");
    let what = "4:1: vhost-net serves a device's end of a link, and the master has the driver's";
    assert!(complaint(&text).contains(what), "{}", complaint(&text));
    let other = complaint(&format!("{HEAD}pump = \"dpdk\"\n"));
    assert!(other.starts_with("f.toml:4:8: pump has no \"dpdk\"\n"), "{other}");
    assert!(other.ends_with("^ write \"builtin\" or \"vhost-net\""), "{other}");
}
