//! Config files: any text, and text that is nearly right.
//!
//! A first octet of zero makes what follows a script, which puts keys and values of tables together;
//! anything else is a file as it is.

use boardlane::daemon::Role;
use boardlane::daemon::config::Config;

use super::octets::Octets;

/// Most problems that are shown, lines each, and bytes of each line.
const SHOWN: usize = 16 * 1024;

/// Reads a file.
pub fn run(data: &[u8]) {
    match data.split_first() {
        Some((0, script)) => judge(&nearly_right(&mut Octets(script))),
        _ => judge(&String::from_utf8_lossy(data)),
    }
}

fn judge(text: &str) {
    for role in [Role::Agent, Role::Master] {
        let verdict = Config::parse("test.toml", text, role);
        match (verdict, Config::parse("test.toml", text, role)) {
            (Ok(config), Ok(again)) => {
                assert_eq!(config, again);
                assert!(!config.links.is_empty() || !config.patterns.is_empty());
                assert!(config.links.len() <= 256);
                let expanded = config.expand(&[]);
                match Config::parse("expanded.toml", &expanded, role) {
                    Ok(same) => assert_eq!(same, config, "{expanded}"),
                    Err(error) => panic!("{error}\n{expanded}"),
                }
            }
            (Err(error), Err(again)) => {
                let shown = error.to_string();
                assert_eq!(shown, again.to_string());
                assert!(error.count() > 0 && shown.len() < SHOWN, "{} bytes", shown.len());
                let control = |c: char| c.is_control() && !['\n', '\t'].contains(&c);
                assert!(!shown.contains(control), "it could move a terminal's cursor: {shown:?}");
            }
            (one, other) => panic!("two verdicts: {one:?}, {other:?}"),
        }
    }
}

const KEYS: &[&str] = &[
    "name",
    "transport",
    "address",
    "route",
    "slot",
    "slots",
    "pool",
    "mac",
    "mtu",
    "queues",
    "netns",
    "bridge",
    "vlan",
    "vrf",
    "dma",
    "engine",
    "port",
    "features_off",
    "keep",
    "dialect",
    "layout",
    "busy_poll_us",
    "cpu",
    "heartbeat_ms",
    "allow_mac",
    "allow_ip",
    "rate",
    "control",
    "nam",
    "to",
];

const VALUES: &[&str] = &[
    "\"bl0\"",
    "\"bl1\"",
    "\"bl{slot}\"",
    "\"shm:/slot{slot:02x}\"",
    "\"0-63\"",
    "\"3,7-8\"",
    "{ v4 = \"10.77.0.0/24\", prefix = 31, v6 = \"fd77::/48\" }",
    "[{ to = \"pool\", via = \"peer\" }]",
    "[\"peer\"]",
    "\"shm:/run/boardlane/slot0.sock\"",
    "\"shm:/s\"",
    "\"shm:\"",
    "\"pci:0000:01:00.0\"",
    "\"uio:/dev/uio0\"",
    "\"vhost-user:/v.sock\"",
    "[\"10.77.0.1/30\", \"fd77::1/64\"]",
    "[\"10.77.0.1/33\"]",
    "[\"0.0.0.0/0\", \"::/0\"]",
    "[{ to = \"10.80.0.0/24\", via = \"10.77.0.2\", metric = 100 }]",
    "[{ to = \"::/0\" }, { via = \"fd77::2\" }]",
    "{ depth = 32, latency_us = 0, bandwidth_mb_s = 0, error_ppm = 1, cpu_below = 256 }",
    "{ depth = 0, dma_only = true }",
    "\"02:00:00:00:00:01\"",
    "\"01:00:5e:00:00:01\"",
    "\"ff-ff\"",
    "0",
    "1",
    "16",
    "68",
    "1280",
    "1500",
    "65521",
    "65536",
    "250",
    "-1",
    "9223372036854775807",
    "18446744073709551616",
    "0x10",
    "1_000",
    "1.5",
    "nan",
    "1979-05-27T07:32:00Z",
    "true",
    "false",
    "\"auto\"",
    "\"direct\"",
    "\"engine\"",
    "\"tap\"",
    "\"discard\"",
    "\"echo\"",
    "\"v1\"",
    "\"v2\"",
    "\"boardlane\"",
    "\"amp-pci\"",
    "\"board0\"",
    "\"/run/netns/x\"",
    "[\"MRG_RXBUF\", \"EVENT_IDX\"]",
    "[\"NO_SUCH\"]",
    "[]",
    "{}",
    "\"\"",
    "\"\\u001b[2J\"",
    "'a\u{9b}b'",
    "\"\\u0000\"",
    "\"ünïcødé\"",
];

/// Links of known keys and values, each with some text of the script's own now and then.
fn nearly_right(script: &mut Octets<'_>) -> String {
    let mut text = String::new();
    while !script.is_empty() && text.len() < 4096 {
        let key = KEYS[usize::from(script.u8()) % KEYS.len()];
        match script.u8() {
            0..=7 => text.push_str("[[link]]\nname = \"bl2\"\ntransport = \"shm:/t\"\n"),
            8..=11 => text.push_str("[[link]]\n"),
            12..=13 => text.push_str("[defaults]\n"),
            14..=15 => text.push_str(
                "[[link]]\nslots = \"0-9\"\nname = \"b{slot}\"\ntransport = \"shm:/{slot}\"\n",
            ),
            16..=31 => {
                let len = script.u8().into();
                text.push_str(&format!(
                    "{key} = {:?}\n",
                    String::from_utf8_lossy(script.take(len))
                ));
            }
            32..=39 => {
                let len = script.u8().into();
                text.push_str(&String::from_utf8_lossy(script.take(len)));
            }
            octet => {
                let value = VALUES[usize::from(octet - 40) % VALUES.len()];
                text.push_str(&format!("{key} = {value}\n"));
            }
        }
    }
    text
}
