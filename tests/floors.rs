//! The crate's floors: imports go down only, the lower floors know no OS, `unsafe` stays in its places.
//!
//! The check reads the sources and judges every path that stands in them outside of tests. A module
//! may name itself and what lies on lower floors; modules on one floor do not know each other.

#![allow(clippy::unwrap_used, reason = "a test may end so, in its helpers too")]

#[path = "floors/source.rs"]
mod source;

use std::path::{Path, PathBuf};

use source::{Source, module_of};

/// The floors, lowest first, each with the top modules on it.
const FLOORS: &[&[&str]] = &[
    &["spec", "atomic", "planted"],
    &["memory"],
    &["virtqueue", "tunnel", "dma"],
    &["net"],
    &["link", "plan"],
    &["sim"],
    &["os"],
    &["daemon"],
    &["main", "cli"],
];
/// The lowest floor that may know the OS.
const OS_FLOOR: usize = 6;
/// Crates and parts of the standard library that are the OS's.
const OS_PATHS: &[&str] = &[
    "libc",
    "rustix",
    "nix",
    "tokio",
    "futures",
    "mio",
    "socket2",
    "rtnetlink",
    "netlink_packet_route",
    "netlink_packet_core",
    "netlink_proto",
    "netlink_sys",
    "std::env",
    "std::fs",
    "std::io",
    "std::os",
    "std::process",
    "std::thread",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::net::ToSocketAddrs",
    "Instant::now",
    "SystemTime::now",
    "std::time::Instant::now",
    "std::time::SystemTime::now",
];
/// Lines of a file at most, tests apart.
const LINES_MAX: usize = 500;

fn may_be_unsafe(file: &Path) -> bool {
    ["src/os", "src/memory/mapping"].iter().any(|place| file.starts_with(place))
        || file == Path::new("src/memory/mapping.rs")
}

fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// Whether the file is one of the binary's, whose root is another than the library's.
fn in_binary(file: &Path) -> bool {
    file.starts_with("src/main.rs") || file.starts_with("src/cli.rs") || file.starts_with("src/cli")
}

/// A whole source tree, as file names and texts.
struct Tree(Vec<(PathBuf, String)>);

impl Tree {
    fn of_the_crate() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let read = |file: PathBuf| {
            let text = std::fs::read_to_string(root.join(&file)).unwrap();
            (file, text)
        };
        Self(source::files(root, "src").into_iter().map(read).collect())
    }

    fn made_up(files: &[(&str, &str)]) -> Self {
        Self(files.iter().map(|(file, text)| (file.into(), (*text).to_owned())).collect())
    }

    /// What breaks a rule, a line each.
    fn offences(&self) -> Vec<String> {
        let sources: Vec<_> =
            self.0.iter().map(|(file, text)| (file, text, source::read(file, text))).collect();
        let test_modules: Vec<_> =
            sources.iter().flat_map(|(_, _, source)| &source.test_modules).collect();
        let mut offences = Vec::new();
        for (file, text, source) in &sources {
            let name = file.display();
            assert!(source.complete, "{name}: this reader of sources got lost in it");
            let lines = source.unsafe_lines.iter().filter(|_| !may_be_unsafe(file));
            offences.extend(lines.map(|line| format!("{name}:{line}: unsafe")));
            let module = module_of(file);
            if test_modules.iter().any(|tests| module.starts_with(tests)) {
                continue;
            }
            let n = text.lines().count();
            if n > LINES_MAX {
                offences.push(format!("{name}: {n} lines, more than {LINES_MAX}"));
            }
            if in_binary(file) {
                offences.extend(judge(file, "main", source));
            } else if let Some(top) = module.first() {
                offences.extend(judge(file, top, source));
            }
        }
        offences
    }
}

/// What the paths of a file, which belongs to the module `top`, do wrong.
fn judge(file: &Path, top: &str, source: &Source) -> Vec<String> {
    let name = file.display();
    let Some(floor) = floor_of(top) else {
        return vec![format!("{name}: the module {top} has no floor yet: give it one here")];
    };
    let mut offences = Vec::new();
    for named in &source.named {
        let line = named.line;
        let path = named.path.join("::");
        let is_os = |os: &&&str| path == **os || path.starts_with(&format!("{os}::"));
        if let (true, Some(os)) = (floor < OS_FLOOR, OS_PATHS.iter().find(is_os)) {
            offences.push(format!("{name}:{line}: {top} is on floor {floor} and names {os}"));
        }
        let own_root = if in_binary(file) { "boardlane" } else { "crate" };
        let is_ours = [own_root, "boardlane"].contains(&named.path[0].as_str());
        let Some(other) = named.path.get(1).filter(|_| is_ours) else { continue };
        match floor_of(other) {
            None => offences.push(format!("{name}:{line}: {path} has no floor")),
            Some(_) if other == top => {}
            Some(other) if other < floor => {}
            Some(other) => {
                let up = format!("{top} is on floor {floor}, {path} on {other}");
                offences.push(format!("{name}:{line}: {up}"));
            }
        }
    }
    offences
}

#[test]
fn imports_go_down_and_the_lower_floors_know_no_os() {
    let tree = Tree::of_the_crate();
    let named = |file: &str| tree.0.iter().any(|(path, _)| path == Path::new(file));
    assert!(named("src/lib.rs") && named("src/link.rs") && named("src/spec/mod.rs"));
    let offences = tree.offences();
    assert!(offences.is_empty(), "{} offences:\n{}", offences.len(), offences.join("\n"));
}

#[test]
fn every_module_of_the_library_has_a_floor_and_stands_in_the_sources() {
    let (_, lib) = Tree::of_the_crate().0.into_iter().find(|(f, _)| f.ends_with("lib.rs")).unwrap();
    let modules: Vec<_> = lib
        .lines()
        .filter_map(|line| line.trim_start_matches("pub ").strip_prefix("mod ")?.strip_suffix(';'))
        .collect();
    assert!(modules.len() >= 8, "{modules:?}");
    for module in modules {
        assert!(floor_of(module).is_some(), "{module} has no floor");
    }
}

/// The offences of one made-up file.
fn offences(file: &str, text: &str) -> Vec<String> {
    Tree::made_up(&[(file, text)]).offences()
}

#[test]
fn a_path_that_goes_up_is_found_however_it_is_written() {
    for (file, text) in [
        ("src/spec/net.rs", "use crate::memory::BusMemory;"),
        ("src/memory/mod.rs", "use crate::{spec::net, virtqueue::{QueueConfig}};"),
        ("src/memory/mapping.rs", "use super::super::net;"),
        ("src/net/path.rs", "fn f() { let x = crate::link::State::Up; }"),
        ("src/net/path.rs", "fn f(x: &dyn boardlane::os::tap::Tap) {}"),
        ("src/net/path.rs", "impl Trait<crate::daemon::Role> for X {}"),
        ("src/net/path.rs", "mod inner { use super::super::super::os::tap; }"),
        ("src/net/path.rs", "mod inner {} use super::super::os::tap;"),
        ("src/link.rs", "use crate::daemon::*;"),
        ("src/link.rs", "pub(in crate::plan) fn f() {}"),
        ("src/os/tap/mod.rs", "pub use\n    crate::\n    daemon as x;"),
        ("src/daemon/mod.rs", "use boardlane::main;"),
        ("src/net/mod.rs", "#[cfg(not(test))] use crate::os::tap;"),
        ("src/net/mod.rs", "#[cfg(feature = \"os\")] use crate::os::tap;"),
        ("src/net/mod.rs", "#[cfg(test)] mod tests { fn f() {} } use crate::os::tap;"),
        ("src/net/mod.rs", "struct S { #[cfg(test)] seen: u8, next: crate::os::tap::Tap }"),
        ("src/net/mod.rs", "const C: char = '\\''; const D: char = '\"'; use crate::os::tap;"),
        ("src/net/mod.rs", "const C: &str = r#\"\"\\\"#; fn f<'a>(x: &'a crate::os::Tap) {}"),
    ] {
        let found = offences(file, text);
        assert_eq!(found.len(), 1, "{file}: {text}: {found:?}");
    }
}

#[test]
fn rings_and_tunnel_do_not_know_each_other() {
    for (file, text) in [
        ("src/tunnel/device.rs", "use crate::virtqueue::QueueConfig;"),
        ("src/virtqueue/split/mod.rs", "use crate::tunnel::model::Device;"),
        ("src/virtqueue/split/mod.rs", "use super::super::super::tunnel;"),
        ("src/dma.rs", "use crate::virtqueue::Area;"),
        ("src/plan.rs", "use crate::link::State;"),
    ] {
        assert_eq!(offences(file, text).len(), 1, "{file}: {text}");
    }
}

#[test]
fn the_os_is_found_below_its_floor_and_allowed_above() {
    for text in [
        "use rustix::fd::OwnedFd;",
        "use libc;",
        "fn f() -> libc::c_int { 0 }",
        "use tokio::{net::UnixStream};",
        "use netlink_packet_route::link::LinkMessage;",
        "extern crate nix;",
        "use std::fs::File;",
        "use std::{collections::BTreeMap, io::Read};",
        "fn f() { std::thread::sleep(d) }",
        "fn f() { let now = Instant::now(); }",
    ] {
        for file in ["src/spec/mod.rs", "src/tunnel/fifo.rs", "src/link/setup.rs", "src/dma.rs"] {
            assert_eq!(offences(file, text).len(), 1, "{file}: {text}");
        }
        for file in ["src/os/tap/mod.rs", "src/daemon/worker.rs", "src/main.rs"] {
            assert_eq!(offences(file, text), Vec::<String>::new(), "{text}");
        }
    }
}

#[test]
fn unsafe_is_found_outside_its_places_in_tests_too() {
    let text = "fn f() { unsafe { g() } }\n#[cfg(test)]\nmod tests { #![allow(unsafe_code)] }";
    assert_eq!(
        offences("src/net/mod.rs", text),
        ["src/net/mod.rs:1: unsafe", "src/net/mod.rs:3: unsafe"]
    );
    assert_eq!(offences("src/memory/mod.rs", text).len(), 2);
    for file in ["src/memory/mapping.rs", "src/os/netns.rs", "src/os/tap/mod.rs"] {
        assert_eq!(offences(file, text), Vec::<String>::new());
    }
}

#[test]
fn a_file_beyond_the_limit_and_a_module_without_a_floor_are_found() {
    let long = "// one line\n".repeat(LINES_MAX + 1);
    assert_eq!(offences("src/link.rs", &long), ["src/link.rs: 501 lines, more than 500"]);
    assert_eq!(offences("src/link.rs", &long[12..]), Vec::<String>::new());
    assert_eq!(offences("src/helper.rs", "").len(), 1);
    assert_eq!(offences("src/link.rs", "use crate::helper;").len(), 1);
}

#[test]
fn what_goes_down_or_only_looks_like_a_path_is_no_offence() {
    for (file, text) in [
        ("src/net/path.rs", "use crate::memory::View; use super::frame::Drop; use self::x::Y;"),
        ("src/net/model.rs", "use crate::{spec, tunnel::model::Device};"),
        ("src/link/setup.rs", "use super::{Broken, Core}; use crate::link::State;"),
        ("src/plan.rs", "use std::net::{IpAddr, Ipv6Addr};"),
        ("src/main.rs", "mod cli; use cli::Cli; use boardlane::daemon;"),
        ("src/cli.rs", "use crate::Failure; use boardlane::os::fabric;"),
        ("src/net/mod.rs", "//! [`crate::os`]\n/* use crate::os; /* nested */ crate::daemon */"),
        ("src/net/mod.rs", "const C: &str = \"crate::os\"; const D: &str = r#\"\" crate::os\"#;"),
        ("src/net/mod.rs", "#[cfg(test)]\n#[allow(dead_code)]\nmod tests { use crate::os::tap; }"),
        ("src/net/mod.rs", "#[cfg(test)] pub(crate) use crate::os::tap;"),
        ("src/net/mod.rs", "#[cfg(all(test, feature = \"os\"))] fn f<A, B>() { crate::os::f() }"),
        ("src/net/mod.rs", "fn f(&self) { self.nix.take(); x.tokio() }"),
    ] {
        assert_eq!(offences(file, text), Vec::<String>::new(), "{file}: {text}");
    }
}

#[test]
fn files_of_test_modules_may_name_anything() {
    let tests = "use crate::os::tap;\n".repeat(LINES_MAX + 1);
    let tree = |declaration: &str| {
        Tree::made_up(&[
            ("src/net/model.rs", declaration),
            ("src/net/model/tests.rs", &tests),
            ("src/net/model/tests/more.rs", &tests),
        ])
        .offences()
        .len()
    };
    assert_eq!(tree("#[cfg(test)]\nmod tests;"), 0);
    assert_eq!(tree("#[cfg(test)]\npub(crate) mod tests;"), 0);
    assert_eq!(tree("mod tests;"), 2 * (LINES_MAX + 2));
}
