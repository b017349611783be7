//! The file system that a guest starts with: busybox, modules, programs of this machine with their
//! libraries, in the archive format that Linux unpacks (newc, Documentation/driver-api/early-userspace).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;
/// What the kernel opens for init.
const CONSOLE: [usize; 2] = [5, 1];

/// The archive; whatever it contains comes after its directories.
pub(crate) struct Image {
    bytes: Vec<u8>,
    directories: BTreeSet<PathBuf>,
    entries: usize,
}

impl Image {
    /// A busybox, which `init` is a script for.
    pub(crate) fn new(busybox: &Path, init: &str) -> Self {
        let mut image = Self { bytes: Vec::new(), directories: BTreeSet::new(), entries: 0 };
        for directory in ["bin", "dev", "proc", "sys", "tmp"] {
            image.make_directories(Path::new(directory));
        }
        image.entry(Path::new("dev/console"), CHARACTER_DEVICE, CONSOLE, &[]);
        image.file("bin/busybox", &fs::read(busybox).unwrap());
        image.file("init", init.as_bytes());
        image
    }

    /// Adds a file that may be executed.
    pub(crate) fn file(&mut self, path: impl AsRef<Path>, content: &[u8]) {
        let path = path.as_ref();
        self.make_directories(path.parent().unwrap());
        self.entry(path, PROGRAM, [0, 0], content);
    }

    /// Adds a program of this machine with the libraries that it is linked with.
    pub(crate) fn add_program(&mut self, name: &str) {
        self.add_linked(&program(name), &Path::new("bin").join(name));
    }

    /// The same, as the file `to` there.
    pub(crate) fn add_linked(&mut self, program: &Path, to: &Path) {
        self.file(to, &fs::read(program).unwrap());
        let output = Command::new("ldd").arg(program).output().unwrap();
        // It fails for a static program, which needs none.
        let text = String::from_utf8_lossy(&output.stdout);
        for path in text.split_whitespace().filter(|word| word.starts_with('/')) {
            self.file(path.trim_start_matches('/'), &fs::read(path).unwrap());
        }
    }

    /// Adds programs of s390x, by their paths in packages that are unpacked below `root`, and by their
    /// names the libraries that they take: `ldd` would have to run them.
    pub(crate) fn add_s390x(&mut self, root: &Path, programs: &[&str], libraries: &[&str]) {
        for path in programs {
            let name = Path::new(path).file_name().unwrap();
            self.file(Path::new("bin").join(name), &fs::read(root.join(path)).unwrap());
        }
        for name in libraries {
            let places = ["lib", "usr/lib"].map(|place| root.join(place).join("s390x-linux-gnu"));
            let file = places.iter().map(|place| place.join(name)).find(|file| file.exists());
            let file = file.unwrap_or_else(|| panic!("no library {name}"));
            self.file(Path::new("lib").join(name), &fs::read(file).unwrap());
        }
    }

    /// Adds modules of an unpacked kernel and those that they need; `/modules` names them in an order
    /// in which they can be inserted. What is built into the kernel needs none. Names are those of files.
    pub(crate) fn add_modules(&mut self, kernel: &Path, names: &[&str]) {
        let directory = modules(kernel);
        let index = fs::read_to_string(directory.join("modules.dep")).unwrap();
        let builtin = fs::read_to_string(directory.join("modules.builtin")).unwrap();
        let mut order: Vec<&str> = Vec::new();
        for name in names {
            let file = format!("/{name}.ko");
            let needs = index.lines().filter_map(|line| line.split_once(':'));
            let needs = needs.clone().find(|(module, _)| module.ends_with(&file));
            let Some((module, needs)) = needs else {
                assert!(builtin.lines().any(|line| line.ends_with(&file)), "no module {name}");
                continue;
            };
            // depmod puts what is needed first last.
            for module in needs.split_whitespace().rev().chain([module]) {
                if !order.contains(&module) {
                    order.push(module);
                    self.file(module, &fs::read(directory.join(module)).unwrap());
                }
            }
        }
        self.file("modules", order.join("\n").as_bytes());
    }

    /// Writes it.
    pub(crate) fn write(mut self, path: &Path) {
        self.entry(Path::new("TRAILER!!!"), 0, [0, 0], &[]);
        fs::write(path, self.bytes).unwrap();
    }

    fn make_directories(&mut self, path: &Path) {
        let mut above: Vec<_> = path.ancestors().filter(|p| !p.as_os_str().is_empty()).collect();
        above.reverse();
        for directory in above {
            if self.directories.insert(directory.to_owned()) {
                self.entry(directory, DIRECTORY, [0, 0], &[]);
            }
        }
    }

    fn entry(&mut self, path: &Path, mode: u32, device: [usize; 2], content: &[u8]) {
        self.entries += 1;
        let name = path.to_str().unwrap();
        self.bytes.extend(format!("070701{:08x}{mode:08x}", self.entries).bytes());
        // User, group, links, time, size, device of the file system, of this, name, no checksum.
        let [major, minor] = device;
        let rest = [0, 0, 1, 0, content.len(), 0, 0, major, minor, name.len() + 1, 0];
        self.bytes.extend(rest.map(|n| format!("{n:08x}")).concat().bytes());
        self.bytes.extend(name.bytes().chain([0]));
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// Where a program of this machine is.
pub(crate) fn program(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let mut places = std::env::split_paths(&path).map(|directory| directory.join(name));
    places.find(|place| place.is_file()).unwrap_or_else(|| panic!("no program {name}"))
}

/// The modules of an unpacked kernel, which are in a directory by its version.
fn modules(kernel: &Path) -> PathBuf {
    let mut versions = fs::read_dir(kernel.join("lib/modules")).unwrap();
    versions.next().expect("a version").unwrap().path()
}
