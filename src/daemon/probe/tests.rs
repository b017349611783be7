use serde_json::json;

use super::window::{Fill, Memories, Memory, Presence};
use super::*;

pub(super) fn part() -> Part {
    let memories = Memories { window: 0..0x40_0000, driver: 0x40_0000..0x100_0000 };
    Part {
        state: "run".into(),
        epoch: 0x1234,
        echo: 0xabcd_ef01,
        heartbeat: 812,
        moves: Some(true),
        owner: 3,
        presence: Presence::Attached,
        held: true,
        vectors: 4,
        mailbox: memories.place(0x1000),
        slots: 16,
        flags: vec![],
    }
}

pub(super) fn window() -> Window {
    let master = Part {
        epoch: 0xabcd_ef01,
        echo: 0x1234,
        heartbeat: 9,
        vectors: 0,
        flags: vec!["mute".into()],
        owner: 5,
        presence: Presence::Unknown,
        ..part()
    };
    let memory = |kind: &str, addr, len| Memory { kind: kind.into(), addr, len };
    Window {
        content: Content::Good,
        magic: 1,
        layout: 1,
        header_len: 4096,
        len: 4 << 20,
        flags: vec![],
        slot: Some(2),
        board: Some(part()),
        master: Some(master),
        up: true,
        to_board: Some(Fill { put: 12, taken: 11, waiting: Some(1) }),
        to_master: Some(Fill { put: 5, taken: 9, waiting: None }),
        memory: vec![memory("window", 0, 4 << 20), memory("driver memory", 0x40_0000, 12 << 20)],
    }
}

fn found() -> Found {
    let place = |addr, memory: &str| window::Place { addr, memory: Some(memory.into()) };
    let queue = Queue {
        name: "receiveq0".into(),
        index: 0,
        size: 256,
        enabled: true,
        descriptors: place(0x5000, "window"),
        driver_area: place(0x6000, "window"),
        device_area: place(0x40_2000, "driver memory"),
    };
    let asked = Asked {
        control: "/run/boardlane/master.sock".into(),
        role: "master".into(),
        pid: 812,
        link: "bl0".into(),
        state: LinkState::Up,
    };
    Found::new("bl0", Some(asked), Ok((window(), vec![queue])))
}

#[test]
fn a_person_reads_the_verdict_first() {
    let expected = "\
bl0: window is good, board and master are up
  asked   master, pid 812: bl0 is up
  window  layout 1, 4 MiB, header of 4096 bytes, no flags, slot 2

             board                    master
  state      run                      run
  epoch      0x00001234               0xabcdef01
  echo       0xabcdef01               0x00001234
  heartbeat  812, moves               9, moves
  owner      3, attached              5
  vectors    4                        0, polls, rings nobody
  mailbox    0x1000 window, 16 slots  0x1000 window, 16 slots
  messages   12 came, 1 wait          5 came, 9 taken: a count jumps

  memory  window         0x0       4 MiB
  memory  driver memory  0x400000  12 MiB

  queue      size  enabled  descriptors    driver area    device area
  receiveq0  256   yes      0x5000 window  0x6000 window  0x402000 driver memory
";
    assert_eq!(text::all(&[found()]), expected);
}

#[test]
fn the_json_has_exactly_the_keys_of_the_contract() {
    let part = |epoch: u32,
                echo: u32,
                heartbeat: u32,
                owner: u32,
                presence: &str,
                vectors: u32,
                flags: &[&str]| {
        json!({
            "state": "run", "epoch": epoch, "echo": echo, "heartbeat": heartbeat, "moves": true,
            "owner": owner, "presence": presence, "held": true, "vectors": vectors,
            "mailbox": {"addr": 0x1000, "memory": "window"}, "slots": 16, "flags": flags,
        })
    };
    let expected = json!({
        "target": "bl0", "good": true, "verdict": "window is good, board and master are up",
        "asked": {"control": "/run/boardlane/master.sock", "role": "master", "pid": 812,
            "link": "bl0", "state": "up"},
        "window": {
            "content": "good", "magic": 1, "layout": 1, "header_len": 4096, "len": 4 << 20,
            "flags": [], "slot": 2,
            "board": part(0x1234, 0xabcd_ef01, 812, 3, "attached", 4, &[]),
            "master": part(0xabcd_ef01, 0x1234, 9, 5, "unknown", 0, &["mute"]),
            "up": true,
            "to_board": {"put": 12, "taken": 11, "waiting": 1},
            "to_master": {"put": 5, "taken": 9, "waiting": null},
            "memory": [{"kind": "window", "addr": 0, "len": 4 << 20},
                {"kind": "driver memory", "addr": 0x40_0000, "len": 12 << 20}],
        },
        "headerless": null,
        "queues": [{"name": "receiveq0", "index": 0, "size": 256, "enabled": true,
            "descriptors": {"addr": 0x5000, "memory": "window"},
            "driver_area": {"addr": 0x6000, "memory": "window"},
            "device_area": {"addr": 0x40_2000, "memory": "driver memory"}}],
    });
    assert_eq!(serde_json::to_value(found()).unwrap(), expected);
    let answer = LinkProbe { window: Some(window()), headerless: None, queues: found().queues };
    let text = serde_json::to_string(&answer).unwrap();
    assert_eq!(serde_json::from_str::<LinkProbe>(&text).unwrap(), answer);
}

#[test]
fn a_window_that_is_dead_or_newer_has_no_ends_to_show() {
    let window = Window {
        content: Content::Version,
        layout: 2,
        board: None,
        master: None,
        memory: vec![],
        ..window()
    };
    let found = Found::new("shm:/x", None, Ok((window, vec![])));
    assert!(!found.good);
    let text = text::all(&[found]);
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.starts_with("shm:/x: window has layout version 2, "), "{text}");
    assert!(text.contains("nobody: mapped here, to be read only"), "{text}");
}

#[test]
fn what_a_daemon_says_cannot_write_to_the_terminal() {
    let mut found = found();
    found.asked.as_mut().unwrap().link = "\x1b[2J".into();
    found.queues[0].name = "\n".into();
    found.window.as_mut().unwrap().board.as_mut().unwrap().state = "\x07".into();
    let text = text::all(&[found]);
    assert!(!text.contains(['\x1b', '\x07']) && text.lines().count() == 19, "{text}");
}

#[test]
fn a_transport_is_the_same_however_it_is_written() {
    for (a, b, same) in [
        ("shm:/nowhere/slot0.sock", "shm:/nowhere//./slot0.sock", true),
        ("pci:0000:00:03.0", "pci:0000:00:03.0?vfio", true),
        ("pci:0000:00:03.0", "pci:0000:00:04.0", false),
        ("shm:/tmp", "shm:/tmp/../tmp", true),
        ("shm:/tmp", "uio:/tmp", false),
    ] {
        assert_eq!(is_same(a, b), same, "{a} {b}");
    }
}

#[test]
fn sockets_of_slots_are_listed_by_number_and_nothing_else_is() {
    let dir = std::env::temp_dir().join(format!("bl-probe-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    for name in ["slot10.sock", "slot2.sock", "agent.sock", ".lock", "slotx.sock"] {
        std::fs::write(dir.join(name), "").unwrap();
    }
    let list = List::new(&dir, &Daemons(vec![]));
    std::fs::remove_dir_all(&dir).unwrap();
    let expected = ["slot2.sock", "slot10.sock"].map(|name| dir.join(name).display().to_string());
    assert_eq!(list.slots, expected);
    let text = text::list(&list);
    assert!(text.contains(&format!("  shm:{}\n", expected[0])), "{text}");
    assert!(text.ends_with("links of daemons that run\n  none\n"), "{text}");
    assert_eq!(List::new(&dir, &Daemons(vec![])).slots, [""; 0]);
}

#[test]
fn looks_end_once_what_should_move_has_moved() {
    let mut looks = 0;
    let seen = look_twice(|| {
        looks += 1;
        let mut window = window();
        for part in window.board.iter_mut().chain(&mut window.master) {
            part.heartbeat = u32::from(looks > 2);
        }
        Ok(window)
    });
    assert!(seen.unwrap().parts().all(|part| part.moves == Some(true)));
    assert_eq!(looks, 3);
    let (mut window, start) = (window(), Instant::now());
    window.master.as_mut().unwrap().held = false;
    let seen = look_twice(|| Ok(window.clone())).unwrap();
    assert_eq!(seen.board.unwrap().moves, Some(false));
    assert!(start.elapsed() >= LOOKS_TIME);
}

#[test]
fn what_cannot_be_looked_at_is_told_with_a_remedy() {
    let said = |target| look_at(target, &Daemons(vec![])).remove(0);
    for (target, expected) in [
        ("shm:/nowhere/slot0.sock", "no backplane yet: /nowhere/slot0.sock does not exist"),
        ("/run/x.sock", "write shm:/run/x.sock for a slot's socket"),
        ("bl7", "no daemon has a link of this name"),
        ("vhost-user:/x", "no daemon holds it"),
        #[cfg(feature = "uio")]
        ("uio:/dev/nowhere", "no UIO device: /dev/nowhere does not exist"),
    ] {
        let found = said(target);
        assert!(found.verdict.starts_with(expected) && !found.good, "{}", found.verdict);
        assert!(found.window.is_none() && found.asked.is_none());
    }
}

#[cfg(feature = "pci")]
#[test]
fn an_address_is_the_same_with_and_without_its_domain_and_mode() {
    assert!(is_same("pci:03:00.0", "pci:0000:03:00.0?vfio"));
    assert!(!is_same("pci:03:00.1", "pci:0000:03:00.0?vfio"));
}
