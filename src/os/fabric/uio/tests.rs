//! Devices of a made-up sysfs: a device's file is a plain one, whose pages lie as its maps' would.

use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::AtomicU32;

use rustix::event::{EventfdFlags, eventfd};
use rustix::pipe::pipe;

use super::*;
use crate::os::poll::{Events, Poll};

const MIB: u64 = 1 << 20;

/// A tree with one device, `uio3`, that goes with it.
struct Tree(PathBuf);

impl Tree {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let tree =
            Self(std::env::temp_dir().join(format!("bl-uio-{}-{number}", std::process::id())));
        tree.write("sys/class/uio/uio3/dev", "0:0\n");
        tree.write("dev/uio3", "");
        fs::File::create(tree.device()).unwrap().set_len(20 * MIB).unwrap();
        tree
    }

    fn write(&self, file: &str, text: &str) {
        let file = self.0.join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    fn device(&self) -> PathBuf {
        self.0.join("dev/uio3")
    }

    /// The device has these maps: names, addresses, sizes and offsets.
    fn maps(self, maps: &[(&str, u64, u64, u64)]) -> Self {
        for (number, (name, addr, size, offset)) in maps.iter().enumerate() {
            let write = |file, text: String| {
                self.write(&format!("sys/class/uio/uio3/maps/map{number}/{file}"), &text);
            };
            write("name", format!("{name}\n"));
            write("addr", format!("{addr:#018x}\n"));
            write("size", format!("{size:#018x}\n"));
            write("offset", format!("{offset:#x}\n"));
        }
        self
    }

    fn open(&self, wanted: &Description) -> Result<(OwnedFd, Layout), UioError> {
        open(&self.0.join("sys"), &self.device(), wanted)
    }

    /// Why it cannot be had.
    fn refused(&self, wanted: &Description) -> String {
        self.open(wanted).unwrap_err().to_string()
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// A board's maps by the names that need no words in a config.
fn board() -> Tree {
    Tree::new().maps(&[
        ("window", 0x8000_0000, MIB, 0),
        ("driver-memory", 0x9000_0000, 2 * MIB, 0),
        ("doorbell", 0xa000_0000, 0x1000, 0x20),
    ])
}

fn named(window: &str) -> Description {
    Description { window: Some(MapKey::Name(window.to_owned())), ..Description::default() }
}

#[test]
fn well_named_maps_need_no_words() {
    let (_, layout) = board().open(&Description::default()).unwrap();
    let page = page_size() as u64;
    let registers = Registers {
        place: Place { offset: 2 * page, len: 0x1000 },
        doorbell: 0x20,
        value: RingValue::Steps(1, 0),
        clear: None,
    };
    let expected = Layout {
        window: Place { offset: 0, len: MIB },
        driver_memory: Some(Place { offset: page, len: 2 * MIB }),
        registers: Some(registers),
    };
    assert_eq!(layout, expected);
    assert_eq!(layout.to_string().parse().ok(), Some(layout));
}

#[test]
fn a_window_alone_has_driver_memory_in_it_and_no_doorbell() {
    let (_, layout) =
        Tree::new().maps(&[("window", 0, MIB, 0)]).open(&Description::default()).unwrap();
    assert_eq!((layout.driver_memory, layout.registers), (None, None));
    assert_eq!(layout.to_string().parse().ok(), Some(layout));
}

#[test]
fn maps_are_named_by_number_where_names_say_nothing() {
    let tree = Tree::new().maps(&[("", 0xa000_0000, 0x1000, 0), ("", 0x8000_0000, MIB, 0)]);
    let wanted = Description {
        window: Some(MapKey::Number(1)),
        doorbell: Some(MapKey::Number(0)),
        doorbell_offset: 8,
        doorbell_value: 7,
        doorbell_step: 2,
        clear_offset: Some(12),
        clear_value: Some(1),
        ..Description::default()
    };
    let (_, layout) = tree.open(&wanted).unwrap();
    assert_eq!(layout.window.offset, page_size() as u64);
    let registers = layout.registers.unwrap();
    assert_eq!((registers.doorbell, registers.value), (8, RingValue::Steps(7, 2)));
    assert_eq!(registers.clear, Some((12, Some(1))));
    assert_eq!(layout.to_string().parse().ok(), Some(layout));
    let read = Description { clear_value: None, ..wanted };
    let layout = tree.open(&read).unwrap().1;
    assert_eq!(layout.registers.unwrap().clear, Some((12, None)));
    assert_eq!(layout.to_string().parse().ok(), Some(layout));
}

#[test]
fn what_is_missing_is_told_with_what_is_there() {
    let none = Description::default();
    assert_eq!(
        Tree::new().refused(&none),
        "the UIO device has no map \"window\" for window; it has none"
    );
    let tree = Tree::new().maps(&[("ram", 0, MIB, 0), ("", MIB, MIB, 0)]);
    let there = "it has map 0 (\"ram\"), map 1 (without a name)";
    assert_eq!(
        tree.refused(&none),
        format!("the UIO device has no map \"window\" for window; {there}")
    );
    let asked = Description { doorbell: Some(MapKey::Number(2)), ..named("ram") };
    assert_eq!(tree.refused(&asked), format!("the UIO device has no map 2 for doorbell; {there}"));
    let asked = Description { driver_memory: Some(MapKey::Name("x".into())), ..named("ram") };
    assert_eq!(
        tree.refused(&asked),
        format!("the UIO device has no map \"x\" for driver_memory; {there}")
    );
    let tree = Tree::new().maps(&[("window", 0, MIB, 0), ("window", MIB, MIB, 0)]);
    assert_eq!(
        tree.refused(&none),
        "the UIO device has two maps named \"window\"; give the number of one in its place"
    );
    let asked = Description { window: Some(MapKey::Number(1)), ..Description::default() };
    assert!(tree.open(&asked).is_ok());
}

#[test]
fn memory_and_registers_have_to_fit() {
    let refused = |maps: &[(&str, u64, u64, u64)], wanted: &Description| {
        Tree::new().maps(maps).refused(wanted)
    };
    let none = Description::default();
    assert_eq!(
        refused(&[("window", 0, MIB / 2, 0)], &none),
        "map 0 (\"window\") has 524288 bytes that can be mapped; as window it has to have 1048576 to \
         4294967296"
    );
    assert!(refused(&[("window", 0, 0x2_0000_0000, 0)], &none).contains("has 8589934592 bytes"));
    let with_driver = |window, driver| {
        refused(&[("window", 0, window, 0), ("driver-memory", 0, driver, 0)], &none)
    };
    assert!(with_driver(MIB / 4, MIB / 8).contains("as driver_memory it has to have 262144"));
    assert!(with_driver(1 << 32, MIB).contains("as window it has to have 262144 to 4294967295"));
    // A part of a page is not mapped.
    assert!(refused(&[("window", 0, MIB + 0xfff, 0)], &named("w")).contains("no map \"w\""));
    assert_eq!(
        Tree::new().maps(&[("window", 0, MIB + 0xfff, 0)]).open(&none).unwrap().1.window.len,
        MIB
    );
    for (addr, offset) in [(0x8000_0100, 0), (0x8000_0000, 0x100)] {
        assert_eq!(
            refused(&[("window", addr, MIB, offset)], &none),
            "map 0 (\"window\") begins at 0x80000100, which is not the start of a page"
        );
    }
    let memory = ("window", 0, MIB, 0);
    for (offset, size) in [(2, 0x1000), (0x1000, 0x1000), (0, 0x100), (u32::MAX - 3, 0x1000)] {
        let wanted = Description { doorbell_offset: offset, ..Description::default() };
        let text = refused(&[memory, ("doorbell", 0, size, 0)], &wanted);
        let below = if size < 0x1000 { 0 } else { 0x1000 };
        let expected = format!(
            "doorbell_offset {offset} is no register of map 1 (\"doorbell\"): a multiple of 4 below \
             {below} is one"
        );
        assert_eq!(text, expected);
    }
    let wanted = Description { clear_offset: Some(0xff0), ..Description::default() };
    let text = refused(&[memory, ("doorbell", 0, 0x1000, 0x10)], &wanted);
    assert!(text.starts_with("clear_offset 4080 is no register"), "{text}");
}

#[test]
fn a_device_that_is_none_is_told_apart() {
    let none = Description::default();
    let tree = board();
    let sys = tree.0.join("sys");
    let refused = |path: &Path| open(&sys, path, &none).unwrap_err();
    let absent = refused(&tree.0.join("dev/uio4"));
    assert!(absent.is_absence() && absent.to_string().contains("load its driver"), "{absent}");
    for file in ["dev/mem", "dev/uio5", "dev/uio", "dev/uiox"] {
        tree.write(file, "");
        let error = refused(&tree.0.join(file));
        assert!(error.to_string().contains("is not a UIO device; give the path"), "{error}");
    }
    assert!(refused(&tree.0).to_string().contains("is not a UIO device"));
    // The node of another device.
    tree.write("sys/class/uio/uio3/dev", "245:0\n");
    assert!(tree.refused(&none).contains("is not a UIO device"));
    tree.write("sys/class/uio/uio3/dev", "0:0\n");
    symlink(tree.device(), tree.0.join("dev/window")).unwrap();
    assert!(open(&sys, &tree.0.join("dev/window"), &none).is_ok(), "udev gives names that stay");
    for (file, text) in [("addr", "80000000"), ("size", "0xgg"), ("offset", ""), ("size", "0x+1")] {
        let tree = board();
        tree.write(&format!("sys/class/uio/uio3/maps/map1/{file}"), text);
        let said = tree.refused(&none);
        let expected = format!("map1/{file} has {text:?}, which is not a hexadecimal number");
        assert!(said.ends_with(&expected), "{said}");
    }
    let tree = board();
    fs::remove_file(tree.0.join("sys/class/uio/uio3/maps/map0/size")).unwrap();
    assert!(tree.refused(&none).contains("map0/size: No such file"));
}

#[test]
fn a_device_belongs_to_one_link() {
    let tree = board();
    let first = tree.open(&Description::default()).unwrap();
    assert!(
        tree.refused(&Description::default())
            .ends_with("/uio3 is in use by another link; stop that one first")
    );
    drop(first);
    assert!(tree.open(&Description::default()).is_ok());
}

#[cfg(feature = "pci")]
#[test]
fn a_function_of_a_known_kind_says_what_its_maps_are() {
    let tree = Tree::new().maps(&[("", 0xfebf_d000, 0x100, 0), ("", 0xfd00_0000, MIB, 0)]);
    let function = "sys/class/uio/uio3/device";
    let resource = "0x00000000febfd000 0x00000000febfd0ff 0x0000000000040200
0x00000000febfe000 0x00000000febfefff 0x0000000000040200
0x00000000fd000000 0x00000000fdffffff 0x000000000014220c
0x0000000000000000 0x0000000000000000 0x0000000000000000
";
    tree.write(&format!("{function}/vendor"), "0x1af4\n");
    tree.write(&format!("{function}/device"), "0x1111\n");
    tree.write(&format!("{function}/resource"), resource);
    let none = Description::default();
    assert!(tree.refused(&none).contains("no map \"window\""), "another kind");
    tree.write(&format!("{function}/device"), "0x1110\n");
    let (_, layout) = tree.open(&none).unwrap();
    let window = Place { offset: page_size() as u64, len: MIB };
    // Less than a page of registers cannot be mapped.
    assert_eq!(layout, Layout { window, driver_memory: None, registers: None });
    let tree = tree.maps(&[("", 0xfebf_d000, 0x1000, 0), ("", 0xfd00_0000, MIB, 0)]);
    let named = Description { window: Some(MapKey::Number(1)), ..Description::default() };
    let (_, layout) = tree.open(&named).unwrap();
    assert_eq!((layout.window, layout.registers), (window, None), "the config knows better");
    let (file, layout) = tree.open(&none).unwrap();
    assert_eq!(layout.to_string().parse().ok(), Some(layout));
    let device = fs::File::options().write(true).open(tree.device()).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&device, &5u32.to_le_bytes(), 8).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _runtime = runtime.enter();
    let link = UioLink::over(&tree.device(), file, &layout, false).unwrap();
    assert_eq!(link.attached().id, 5, "by the register of the function");
    link.bell(3, 1).unwrap().ring();
    assert!(link.bell(0x1_0000, 1).is_none(), "no such peer");
    let mut written = [0; 4];
    std::os::unix::fs::FileExt::read_exact_at(
        &fs::File::open(tree.device()).unwrap(),
        &mut written,
        12,
    )
    .unwrap();
    assert_eq!(written, [1, 0, 3, 0]);
    let tree = tree.maps(&[("", 0xfebf_d000, 0x1000, 0), ("", 0xfc00_0000, MIB, 0)]);
    let text = tree.refused(&none);
    assert!(text.contains("no map \"of BAR 2\" for ivshmem-doorbell; it has map 0"), "{text}");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

#[test]
fn an_end_has_both_parts_and_polls_without_interrupts() {
    let tree = board();
    let (file, layout) = tree.open(&Description::default()).unwrap();
    let runtime = runtime();
    let _guard = runtime.enter();
    let link = UioLink::over(&tree.device(), file, &layout, false).unwrap();
    assert_eq!(link.polls(), Some("interrupts are off in the config"));
    let Attached { window, driver_memory, id, doorbells, rings } = link.attached();
    assert_eq!((window.bus(), driver_memory.bus()), (0..MIB, MIB..3 * MIB));
    assert!(*id > MAX_ID && *id < u32::MAX && *id != draw_id(), "{id}");
    assert_eq!((doorbells.len(), *rings), (0, true));
    assert_eq!(window.mapping.kind(), Kind::Uncached);
    window.mapping.view(window.offset, 8).store_le64(0, 7);
    link.bell(9, 3).unwrap().ring();
    link.bell(0, 0).unwrap().ring();
    let octets = fs::read(tree.device()).unwrap();
    let page = page_size();
    assert_eq!((octets[0], octets[2 * page + 0x20]), (7, 1));
    assert!(tree.refused(&Description::default()).contains("in use"), "what is mapped is held");
    drop(link);
    assert!(tree.open(&Description::default()).is_ok());
}

#[test]
fn memory_that_vanishes_ends_the_link_and_not_the_process() {
    let tree = board();
    let (file, layout) = tree.open(&Description::default()).unwrap();
    let runtime = runtime();
    let guard = runtime.enter();
    let mut link = UioLink::over(&tree.device(), file, &layout, false).unwrap();
    drop(guard);
    fs::File::options().write(true).open(tree.device()).unwrap().set_len(0).unwrap();
    let Part { mapping, .. } = &link.attached().window;
    assert_eq!(mapping.view(0, 8).load_le64(0), 0);
    let why = runtime.block_on(link.next());
    assert!(why.ends_with("/uio3: its memory is gone"), "{why}");
}

/// Whether it has rung since the last look, waiting for so many milliseconds.
fn has_rung(poll: &Poll, millis: u64) -> bool {
    let mut events = Events::with_capacity(1);
    poll.wait(&mut events, Some(Duration::from_millis(millis))).unwrap();
    events.iter().next().is_some()
}

#[test]
fn an_interrupt_is_taken_back_and_rings() {
    // What a UIO device's file does, a socket does: an interrupt is four octets to be read.
    let (theirs, file) = std::os::unix::net::UnixStream::pair().unwrap();
    let file: OwnedFd = file.into();
    assert!(interrupt::is_there(&file).unwrap());
    let registers = Arc::new(Mapping::anonymous(16, Kind::Uncached));
    let clear = interrupt::Clear { mapping: registers.clone(), offset: 8, value: Some(5) };
    let mut interrupt = Interrupt::start(file, Some(clear)).unwrap();
    let poll = Poll::new().unwrap();
    poll.add_doorbell(&**interrupt.bell(), 0).unwrap();
    assert!(!has_rung(&poll, 20));
    for _ in 0..3 {
        registers.view(8, 4).store_le32(0, 0);
        rustix::io::write(&theirs, &1u32.to_ne_bytes()).unwrap();
        assert!(has_rung(&poll, 10_000));
        assert_eq!(registers.view(8, 4).load_le32(0), 5);
    }
    let mut switched_on = [0; 64];
    let mut count = 0;
    while count < 16 {
        count += rustix::io::read(&theirs, &mut switched_on[count..]).unwrap();
    }
    assert_eq!(switched_on[..16], [1i32.to_ne_bytes(); 4].concat());
    drop(theirs);
    let why = runtime().block_on(interrupt.lost());
    assert!(why.starts_with("its interrupt: "), "{why}");
}

#[test]
fn interrupts_without_end_are_heard_once_in_a_while_and_the_thread_ends() {
    // It can always be read, and counts how often it was.
    let file = eventfd(u32::MAX, EventfdFlags::SEMAPHORE).unwrap();
    let (reads, _writes) = pipe().unwrap();
    assert!(interrupt::is_there(&reads).unwrap());
    // An eventfd gives 8 octets or none, so this one fails at once: the thread says so, and ends.
    let mut interrupt = Interrupt::start(file, None).unwrap();
    let why = runtime().block_on(interrupt.lost());
    assert!(why.contains("Invalid argument"), "{why}");
    let zeros = fs::File::open("/dev/zero").unwrap();
    let began = std::time::Instant::now();
    let interrupt = Interrupt::start(zeros.into(), None).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    let mut rung = [0; 8];
    rustix::io::read(&**interrupt.bell(), &mut rung).unwrap();
    let (rung, most) = (u64::from_ne_bytes(rung), 1024 + began.elapsed().as_micros() / 50);
    assert!(rung > 0 && u128::from(rung) <= most + 1, "{rung} of {most}");
}

#[test]
fn what_cannot_be_waited_for_has_no_interrupt() {
    let (reads, writes) = pipe().unwrap();
    drop(writes);
    // A UIO device without an interrupt is ready, and failed.
    assert!(!interrupt::is_there(&reads).unwrap());
}

#[test]
fn text_that_is_no_layout_is_none() {
    let good = Layout {
        window: Place { offset: 0, len: MIB },
        driver_memory: None,
        registers: Some(Registers {
            place: Place { offset: 4096, len: 4096 },
            doorbell: 4,
            value: RingValue::OfKind(2),
            clear: None,
        }),
    };
    let text = good.to_string();
    assert_eq!(text.parse().ok(), Some(good));
    let none = u64::MAX.to_string();
    for bad in [
        String::new(),
        format!("{text} 1"),
        text.replace("1048576", "x"),
        text.replacen('0', &none, 1),
        // A register beyond 32 bits.
        text.replace(" 4 ", " 4294967296 "),
    ] {
        assert!(bad.parse::<Layout>().is_err(), "{bad}");
    }
}

#[test]
fn a_device_is_listed_with_its_maps_and_looked_at_as_a_link_would_have_it() {
    let tree = board();
    tree.write("sys/class/uio/uio3/name", "board\n");
    tree.write("sys/class/uio/uio12/name", "other\n");
    tree.write("sys/class/uio/version", "");
    let sys = tree.0.join("sys");
    let all = devices(&sys);
    let names: Vec<_> =
        all.iter().map(|d| (d.path.to_str().unwrap(), &*d.name, d.maps.len())).collect();
    assert_eq!(names, [("/dev/uio3", "board", 3), ("/dev/uio12", "other", 0)]);
    assert_eq!(devices(&tree.0), []);
    let (parts, _file) = look(&sys, &tree.device()).unwrap();
    let lens: Vec<_> = parts.iter().map(|part| part.memory.len() as u64).collect();
    assert_eq!(lens, [MIB, 2 * MIB]);
    // It is one link's, or one look's.
    assert!(matches!(look(&sys, &tree.device()), Err(UioError::Busy(_))));
}
