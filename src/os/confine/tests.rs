use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::PathBuf;

use rustix::thread::capabilities;

use super::*;

/// Runs a test on a thread of its own, which is then confined for good.
fn on_a_thread<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(test).join().unwrap())
}

fn directory(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("boardlane-{name}-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn status(key: &str) -> String {
    let text = fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim_start_matches(':').trim().to_owned()
}

#[test]
fn a_part_keeps_its_capabilities_and_can_get_no_other() {
    let walls = Walls { caps: true, ..Walls::NONE };
    for part in [Part::Control, Part::Backplane, Part::Broker] {
        on_a_thread(|| {
            let before = capabilities(None).unwrap();
            let confined = process(part, None, walls);
            let now = capabilities(None).unwrap();
            assert_eq!(now.permitted, before.permitted & part.capabilities(), "{confined}");
            assert_eq!((now.effective, now.inheritable.bits()), (now.permitted, 0));
            assert_eq!(status("NoNewPrivs"), "1");
            if before.permitted.contains(CapabilitySet::SETPCAP) {
                assert_eq!(status("CapBnd"), "0000000000000000");
            }
            assert_eq!(confined.lacks, Vec::<String>::new());
        });
    }
}

#[test]
#[allow(clippy::print_stderr, reason = "says where a kernel has no Landlock")]
fn one_directory_is_left_of_the_file_system() {
    let dir = directory("confined");
    let walls = Walls { landlock: true, ..Walls::NONE };
    let confined = on_a_thread(|| {
        let confined = process(Part::Control, Some(&dir), walls);
        if confined.holds.is_empty() {
            return confined;
        }
        let note = dir.join("note");
        fs::write(dir.join("new"), "text").unwrap();
        fs::rename(dir.join("new"), &note).unwrap();
        assert_eq!(fs::read_to_string(&note).unwrap(), "text");
        fs::remove_file(&note).unwrap();
        for file in ["/etc/passwd", "/proc/self/mem", "/dev/null"] {
            let error = fs::File::open(file).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{file}");
        }
        let outside = dir.with_extension("outside");
        assert_eq!(fs::write(outside, "").unwrap_err().kind(), ErrorKind::PermissionDenied);
        if confined.lacks.is_empty() {
            let bound = TcpListener::bind("127.0.0.1:0").map(drop);
            assert_eq!(bound.unwrap_err().kind(), ErrorKind::PermissionDenied);
        }
        confined
    });
    eprintln!("{confined}");
    fs::remove_dir_all(dir).unwrap();
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
mod seccomp {
    use rustix::io::Errno;
    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
    use rustix::net::{AddressFamily, SocketType, socket};
    use rustix::thread::{UnshareFlags, unshare_unsafe};

    use super::*;

    const WALLS: Walls = Walls { seccomp: true, ..Walls::NONE };

    fn tcp() -> Result<(), Errno> {
        socket(AddressFamily::INET, SocketType::STREAM, None).map(drop)
    }

    fn executable_memory() -> Result<(), Errno> {
        let prot = ProtFlags::READ | ProtFlags::EXEC;
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory in use.
        unsafe { mmap_anonymous(std::ptr::null_mut(), 4096, prot, MapFlags::PRIVATE) }.map(drop)
    }

    fn new_namespace() -> Result<(), Errno> {
        // SAFETY: no descriptor table is unshared.
        unsafe { unshare_unsafe(UnshareFlags::NEWUSER) }
    }

    #[test]
    fn what_a_part_does_not_call_is_not_done() {
        for part in [Part::Control, Part::Backplane] {
            on_a_thread(|| {
                let confined = process(part, None, WALLS);
                assert_eq!(confined.holds, ["seccomp"], "{confined}");
                assert_eq!(status("Seccomp"), "2");
                let refused = Err(Errno::NOSYS);
                assert_eq!(
                    (tcp(), executable_memory(), new_namespace()),
                    (refused, refused, refused)
                );
                assert!(std::process::Command::new("true").status().is_err());
                // Threads, files, memory and clocks are there as ever.
                let sum = std::thread::spawn(|| vec![1_u8; 1 << 20].len()).join().unwrap();
                assert_eq!(sum, 1 << 20);
                std::thread::sleep(std::time::Duration::from_millis(1));
            });
        }
    }

    #[test]
    fn vhost_net_is_spoken_to_by_daemons_of_links_only() {
        use crate::os::vhost_net::{VhostError, features};
        for (part, errno) in [
            (Part::Control, Errno::NOTTY),
            (Part::Backplane, Errno::NOSYS),
            (Part::Broker, Errno::NOSYS),
        ] {
            on_a_thread(|| {
                let null = fs::File::open("/dev/null").unwrap();
                process(part, None, WALLS);
                let refused = Err(VhostError::Os { doing: "VHOST_GET_FEATURES", errno });
                assert_eq!(features(&null), refused, "{part:?}");
            });
        }
    }

    #[test]
    fn no_other_process_gets_a_signal() {
        use rustix::process::{Pid, Signal, kill_process};
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_child(&other);
        on_a_thread(|| {
            process(Part::Control, None, WALLS);
            assert_eq!(kill_process(pid, Signal::KILL), Err(Errno::NOSYS));
            let (id, signal) = (pid.as_raw_pid(), libc::SIGKILL);
            // SAFETY: the call takes numbers only.
            assert_eq!(unsafe { libc::syscall(libc::SYS_tgkill, id, id, signal) }, -1);
            let null = fs::File::open("/dev/null").unwrap();
            // SAFETY: as above; the descriptor is open.
            let owner =
                unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(&null), libc::F_SETOWN, id) };
            assert_eq!(owner, -1);
        });
        assert!(other.try_wait().unwrap().is_none(), "it lives");
        other.kill().unwrap();
        other.wait().unwrap();
    }

    #[test]
    fn a_worker_opens_nothing_and_has_no_capability() {
        on_a_thread(|| {
            let walls = Walls { caps: true, ..WALLS };
            process(Part::Control, None, walls);
            workers(walls);
            on_a_thread(|| {
                let null = fs::File::options().write(true).open("/dev/null").unwrap();
                worker();
                assert_eq!(
                    fs::File::open("/dev/zero").unwrap_err().raw_os_error(),
                    Some(libc::ENOSYS)
                );
                assert_eq!(tcp(), Err(Errno::NOSYS));
                assert!(std::thread::Builder::new().spawn(|| ()).is_err());
                std::io::copy(&mut &b"octets"[..], &mut &null).unwrap();
                assert!(std::panic::catch_unwind(|| panic!("it is allowed to")).is_err());
            });
            workers(Walls::NONE);
        });
    }

    #[test]
    fn the_broker_enters_no_user_namespace_and_starts_no_program() {
        on_a_thread(|| {
            let confined = process(Part::Broker, None, WALLS);
            assert_eq!(confined.holds, ["seccomp"], "{confined}");
            assert_eq!(new_namespace(), Err(Errno::NOSYS));
            assert_eq!(executable_memory(), Err(Errno::NOSYS));
            let datagrams = std::net::UdpSocket::bind("127.0.0.1:0").unwrap_err();
            assert_eq!(datagrams.raw_os_error(), Some(libc::ENOSYS));
            // For metrics.
            let listens = std::net::TcpListener::bind("127.0.0.1:0").is_ok();
            assert_eq!(listens, cfg!(feature = "metrics"));
            assert!(std::process::Command::new("true").status().is_err());
        });
    }

    #[test]
    fn a_daemon_may_map_what_a_peer_gives_and_make_memory_and_its_loss_ends_no_worker() {
        use crate::os::fabric::vhost_user::connection::Connection;
        use crate::os::fabric::vhost_user::memory::{Loss, create, map};
        use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
        use std::os::fd::AsFd;

        let (theirs, ours) = std::os::unix::net::UnixStream::pair().unwrap();
        let region = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&region, 1 << 20).unwrap();
        // As a daemon's, it is there first.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        on_a_thread(|| {
            let confined = process(Part::Control, None, WALLS);
            assert_eq!(confined.holds, ["seccomp"], "{confined}");
            workers(WALLS);
            let _guard = runtime.enter();
            let mut theirs = Connection::over(theirs.into()).unwrap();
            let mut ours = Connection::over(ours.into()).unwrap();
            let (inflight, _mapping) = create(4096).unwrap();
            // What a back-end asks by, and no other kind of pair.
            let (_requests, _asks) = crate::os::fabric::vhost_user::pair().unwrap();
            assert!(std::os::unix::net::UnixDatagram::pair().is_err());
            let fds = [region.as_fd(), inflight.as_fd()];
            theirs.send(&[0; 12], &fds).unwrap();
            let fds = runtime.block_on(ours.next()).unwrap().fds;
            let loss = Loss::new();
            let [region, inflight] =
                [&fds[0], &fds[1]].map(|fd| map(fd.as_fd(), 0, 4096, &loss).unwrap());
            ftruncate(&fds[0], 0).unwrap();
            on_a_thread(|| {
                worker();
                assert_eq!(tcp(), Err(Errno::NOSYS));
                region.view(0, 4096).store_le64(0, 1);
                inflight.view(0, 4096).store_le64(0, 1);
            });
            assert!(loss.is_lost());
            workers(Walls::NONE);
        });
    }

    #[test]
    fn the_broker_makes_sockets_with_their_mode_and_owner() {
        use crate::os::access::{Access, Owner};
        use crate::os::socket_file::SocketFile;
        use std::os::unix::fs::{MetadataExt, PermissionsExt};

        let dir = directory("broker-socket");
        let path = dir.join("socket");
        let root = rustix::process::geteuid().is_root();
        on_a_thread(|| {
            let walls = Walls { caps: true, ..WALLS };
            process(Part::Broker, None, walls);
            // Who is not root may not give it away.
            let owner = if root { Owner::parse("65534:65534").unwrap() } else { Owner::default() };
            let access = Access { mode: 0o666, owner };
            let (_file, _listener) = SocketFile::bind(&path, &access).unwrap();
            let file = fs::symlink_metadata(&path).unwrap();
            assert_eq!(file.permissions().mode() & 0o777, 0o666);
            assert!(!root || (file.uid(), file.gid()) == (65534, 65534));
        });
        assert!(!path.exists(), "it goes with its holder");
        fs::remove_dir_all(dir).unwrap();
    }
}
