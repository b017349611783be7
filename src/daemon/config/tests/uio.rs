//! `uio:`, and what its table may say.

use super::*;
use crate::os::fabric::uio::{Description, MapKey};

const UIO: &str = "[[link]]\nname = \"bl0\"\ntransport = \"uio:/dev/uio0\"\n";

fn description(lines: &str) -> Description {
    let config = Config::parse("f.toml", &format!("{UIO}{lines}"), Role::Agent).unwrap();
    let expanded = config.expand(&[]);
    assert_eq!(Config::parse("f.toml", &expanded, Role::Agent).expect(&expanded), config);
    match &config.links[0].transport {
        Transport::Uio { path, description } if path == Path::new("/dev/uio0") => {
            description.clone()
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_uio_link_need_not_say_more_than_its_device() {
    assert_eq!(description(""), Description::default());
    assert_eq!(description("uio = {}"), Description::default());
    let expanded = Config::parse("f.toml", UIO, Role::Master).unwrap().expand(&[]);
    let line = "\nuio = { doorbell_offset = 0, doorbell_value = 1, doorbell_step = 0, interrupt = true }\n";
    assert!(expanded.contains(line), "{expanded}");
}

#[test]
fn its_table_names_maps_and_registers() {
    let all = description(
        "uio = { window = \"ram\", driver_memory = 1, doorbell = 15, doorbell_offset = 0x10, \
         doorbell_value = 0xffff_ffff, doorbell_step = 2, clear_offset = 4, clear_value = 0, interrupt = false }",
    );
    let expected = Description {
        window: Some(MapKey::Name("ram".into())),
        driver_memory: Some(MapKey::Number(1)),
        doorbell: Some(MapKey::Number(15)),
        doorbell_offset: 16,
        doorbell_value: u32::MAX,
        doorbell_step: 2,
        clear_offset: Some(4),
        clear_value: Some(0),
        interrupt: false,
    };
    assert_eq!(all, expected);
    assert_eq!(description("uio = { clear_offset = 8 }").clear_value, None);
}

#[test]
fn what_is_wrong_in_it_is_told() {
    for (text, what, remedy) in [
        (
            UIO.replace("/dev/", ""),
            "3:13: this is not the path of a UIO device",
            "write the device's whole path, as \"uio:/dev/uio0\"",
        ),
        (
            format!("{UIO}uio = 3"),
            "4:7: uio is a whole number",
            "write it as uio = { window = \"window\", doorbell = \"doorbell\" }",
        ),
        (
            format!("{UIO}uio = {{ windw = 1 }}"),
            "4:9: unknown key \"windw\"",
            "did you mean window?",
        ),
        (
            format!("{UIO}uio = {{ window = 16 }}"),
            "4:18: window 16 is out of range",
            "write 0 to 15",
        ),
        (
            format!("{UIO}uio = {{ doorbell = \"\" }}"),
            "4:20: no map is found by an empty name",
            "write its number, as doorbell = 0",
        ),
        (
            format!("{UIO}uio = {{ doorbell = true }}"),
            "4:20: doorbell is true or false",
            "write it as doorbell = \"doorbell\"",
        ),
        (
            format!("{UIO}uio = {{ clear_value = 1 }}"),
            "4:23: clear_value is written to a register that is not named",
            "add clear_offset, or take this out",
        ),
        (
            format!("{HEAD}uio = {{ window = 1 }}"),
            "4:1: uio speaks of a UIO device, and this transport has none",
            "take this line out",
        ),
        (
            format!("{UIO}{}", UIO.replace("bl0", "bl1").replace("/uio0", "//./uio0")),
            "6:13: transport \"uio:/dev/uio0\" stands on line 3 already",
            "give each link its own device",
        ),
    ] {
        let said = complaint(&text);
        assert!(said.starts_with(&format!("f.toml:{what}\n")), "{said}");
        assert!(said.ends_with(&format!("^ {remedy}")), "{said}");
        assert_eq!(said.lines().count(), 3, "{said}");
    }
}
