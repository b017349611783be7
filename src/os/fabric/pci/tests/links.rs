//! Functions that links take by sysfs, whose files are files here.

use super::*;

impl Machine {
    /// A function with files of its BARs: id 3.
    fn add_files(&self, address: &str, made: &Made) {
        self.add(address, made);
        let file = |name: &str| self.tree.file(address.parse().unwrap(), name);
        let mut registers = vec![0; 4096];
        registers[8] = 3;
        fs::write(file("resource0"), registers).unwrap();
        for name in ["resource2", "resource2_wc"] {
            fs::File::create(file(name)).unwrap().set_len(1 << 20).unwrap();
        }
    }

    fn take(&self, want: &str, taken: &mut Option<Taken>) -> Result<Opened, PciError> {
        take(&self.tree, wanted(want), &[], taken)
    }
}

#[tokio::test]
async fn a_link_maps_the_memory_of_a_function_and_rings_its_register() {
    let machine = Machine::new("link");
    machine.add_files(IVSHMEM, &Made::default());
    let mut taken = None;
    let Opened { told, fds } = machine.take(IVSHMEM, &mut taken).unwrap();
    assert_eq!(told.to_string(), "0000:00:03.0 ivshmem-doorbell sysfs wc 0");
    assert!(machine.look(IVSHMEM).enabled);
    let link = PciLink::new(told, fds).unwrap();
    let attached = link.attached();
    assert_eq!((attached.id, attached.doorbells.len()), (3, 0));
    assert_eq!(
        (attached.window.bus(), attached.driver_memory.bus()),
        (0..1 << 18, 1 << 18..1 << 20)
    );
    assert_eq!(attached.window.mapping.kind(), Kind::WriteCombined);
    attached.driver_memory.mapping.view(attached.driver_memory.offset, 8).store_le64(0, 0x77);
    let Some(Bell::Register(register)) = link.bell(5, 2) else { panic!("no register") };
    register.write();
    assert!(link.bell(0x1_0000, 0).is_none());
    drop((link, register));
    let file = |name| fs::read(machine.tree.file(IVSHMEM.parse().unwrap(), name)).unwrap();
    assert_eq!(file("resource2_wc")[1 << 18], 0x77);
    assert_eq!(file("resource0")[8..16], [3, 0, 0, 0, 2, 0, 5, 0]);
    taken.unwrap().give_back().unwrap();
    assert!(!machine.look(IVSHMEM).enabled, "it was not before");
}

#[tokio::test]
async fn registers_may_begin_inside_a_page() {
    let machine = Machine::new("inside");
    let bars =
        ["0x00000000febf2300 0x00000000febf23ff 0x0000000000040200", Made::default().bars[1]];
    let made = Made { bars, enable: "1", ..Made::default() };
    machine.add_files(IVSHMEM, &made);
    let registers = machine.tree.file(IVSHMEM.parse().unwrap(), "resource0");
    let mut octets = vec![0; 4096];
    octets[0x308] = 9;
    fs::write(registers, octets).unwrap();
    let mut taken = None;
    let Opened { told, fds } = machine.take("0000:00:03.0?sysfs", &mut taken).unwrap();
    assert_eq!(told.registers_at, 0x300);
    assert_eq!(PciLink::new(told, fds).unwrap().attached().id, 9);
    taken.unwrap().give_back().unwrap();
    assert!(machine.look(IVSHMEM).enabled, "it was before");
}

#[tokio::test]
async fn a_function_whose_memory_nobody_serves_is_refused() {
    let machine = Machine::new("nobody");
    machine.add_files(IVSHMEM, &Made::default());
    fs::write(machine.tree.file(IVSHMEM.parse().unwrap(), "resource0"), [0xff; 4096]).unwrap();
    let Opened { told, fds } = machine.take(IVSHMEM, &mut None).unwrap();
    let error = PciLink::new(told, fds).unwrap_err();
    assert!(matches!(error, PciError::Id { value: u32::MAX, .. }), "{error}");
}

#[tokio::test]
async fn descriptors_that_do_not_fit_are_refused() {
    let machine = Machine::new("fds");
    machine.add_files(IVSHMEM, &Made::default());
    for n in 0..3 {
        let Opened { told, mut fds } = machine.take(IVSHMEM, &mut None).unwrap();
        fds.truncate(n);
        let error = PciLink::new(told, fds).unwrap_err();
        assert!(matches!(error, PciError::Told(_)), "{error}");
    }
}

#[tokio::test]
async fn a_function_that_goes_is_let_go_of() {
    let machine = Machine::new("goes");
    machine.add_files(IVSHMEM, &Made::default());
    let Opened { told, fds } = machine.take(IVSHMEM, &mut None).unwrap();
    let mut link = PciLink::new(told, fds).unwrap();
    // Whoever asks again and again finds out as well.
    let ask = async |link: &mut PciLink| {
        tokio::time::timeout(std::time::Duration::from_millis(20), link.next()).await
    };
    for _ in 0..20 {
        assert!(ask(&mut link).await.is_err());
    }
    fs::write(machine.tree.file(IVSHMEM.parse().unwrap(), "config"), [0xff; 64]).unwrap();
    let why = loop {
        if let Ok(why) = ask(&mut link).await {
            break why;
        }
    };
    let line = "PCI function 0000:00:03.0 answers no more: its config space reads as all ones";
    assert_eq!(why, line);
}

#[tokio::test]
async fn memory_that_is_lost_is_zeros_and_lets_the_function_go() {
    let machine = Machine::new("lost");
    machine.add_files(IVSHMEM, &Made::default());
    let Opened { told, fds } = machine.take(IVSHMEM, &mut None).unwrap();
    let mut link = PciLink::new(told, fds).unwrap();
    let path = machine.tree.file(IVSHMEM.parse().unwrap(), "resource2_wc");
    fs::OpenOptions::new().write(true).open(path).unwrap().set_len(0).unwrap();
    assert_eq!(link.attached().window.mapping.view(0, 8).load_le64(0), 0);
    assert_eq!(link.next().await, "PCI function 0000:00:03.0 has lost its memory");
}

#[test]
fn a_function_is_one_links_at_a_time() {
    let machine = Machine::new("exclusive");
    machine.add_files(IVSHMEM, &Made::default());
    let mut taken = None;
    let first = machine.take(IVSHMEM, &mut taken).unwrap();
    let error = machine.take(IVSHMEM, &mut None).unwrap_err().to_string();
    let line = "/sys/bus/pci/devices/0000:00:03.0/config is held by another process; stop that one";
    assert_eq!(error.replace(machine.dir.to_str().unwrap(), ""), line);
    // It is the file that holds it, also where it was sent to.
    let sent = first.fds[0].try_clone().unwrap();
    drop(first);
    assert!(machine.take(IVSHMEM, &mut None).is_err());
    drop(sent);
    machine.take(IVSHMEM, &mut taken).unwrap();
    taken.unwrap().give_back().unwrap();
    assert!(!machine.look(IVSHMEM).enabled);
}

#[test]
fn a_link_that_takes_any_function_gets_the_lowest_that_is_free_and_keeps_it() {
    let machine = Machine::new("any");
    let foreign = Made { ids: ["0x8086", "0x100e", "0x020000"], ..Made::default() };
    machine.add("0000:00:01.0", &foreign);
    machine.add_files("0000:00:04.0", &Made::default());
    machine.add_files("0000:00:05.0", &Made { driver: Some("uio"), ..Made::default() });
    machine.add_files("0000:00:06.0", &Made::default());
    let take = |others: &[&str], taken: &mut Option<Taken>| {
        let others: Vec<_> = others.iter().map(|other| other.parse().unwrap()).collect();
        super::take(&machine.tree, wanted("auto"), &others, taken)
    };
    let (mut a, mut b, mut c) = (None, None, None);
    let first = take(&[], &mut a).unwrap();
    assert_eq!(first.told.address.to_string(), "0000:00:04.0");
    // Another process has that one, and a driver the next.
    let second = take(&[], &mut b).unwrap();
    assert_eq!(second.told.address.to_string(), "0000:00:06.0");
    drop(second);
    drop(first);
    // The lower one is free now.
    assert_eq!(take(&[], &mut b).unwrap().told.address.to_string(), "0000:00:06.0");
    let error = take(&["0000:00:04.0", "0000:00:05.0", "0000:00:06.0"], &mut c).unwrap_err();
    assert_eq!(
        error.to_string(),
        "all 3 PCI functions of a known kind belong to other links; give this one an address of its own"
    );
    for taken in [a, b].into_iter().flatten() {
        taken.give_back().unwrap();
    }
    let enabled = ["4", "5", "6"].map(|n| machine.look(&format!("0000:00:0{n}.0")).enabled);
    assert_eq!((enabled, c.is_none()), ([false; 3], true));
}
