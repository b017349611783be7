//! The lists of system calls.
//!
//! A filter on a filter allows what both do: a worker's list lies within the daemon's. What a worker
//! calls for each batch of frames is allowed by number alone, which the kernel (5.11 and later) looks
//! up in a bitmap without running the filter.

use std::collections::BTreeMap;
use std::io;

use libc::{c_int, c_long};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Is, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, sock_filter,
};

use super::Part;
#[cfg(feature = "pci")]
use crate::os::fabric::pci;
use crate::os::vhost_net;

/// For all: memory, waiting, clocks, threads that end, descriptors at hand, and what a panic does.
const ALWAYS: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_futex,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_sched_yield,
    libc::SYS_getcpu,
    libc::SYS_getrandom,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigaction,
    libc::SYS_sigaltstack,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// For whole processes: sockets and files at hand or in reach, and further threads.
const PROCESS: &[c_long] = &[
    libc::SYS_recvmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_accept4,
    libc::SYS_accept,
    libc::SYS_listen,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    libc::SYS_epoll_create1,
    libc::SYS_eventfd2,
    libc::SYS_openat,
    libc::SYS_newfstatat,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_statx,
    libc::SYS_lseek,
    libc::SYS_ftruncate,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_flock,
    libc::SYS_readlinkat,
    libc::SYS_getcwd,
    libc::SYS_dup,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_sched_getaffinity,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_set_tid_address,
];

/// What lets a thread become a worker.
const CONTROL: &[c_long] = &[libc::SYS_seccomp, libc::SYS_capget, libc::SYS_capset];

/// What makes memory for a vhost-user peer.
const MEMORY: &[c_long] = &[libc::SYS_memfd_create];

/// What reads and writes a PCI function's config space.
#[cfg(feature = "pci")]
const FUNCTION: &[c_long] = &[libc::SYS_pread64, libc::SYS_pwrite64];
#[cfg(not(feature = "pci"))]
const FUNCTION: &[c_long] = &[];

/// What opens things for others.
const BROKER: &[c_long] = &[
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_setns,
    libc::SYS_memfd_create,
    // For a socket's mode and owner.
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    // For PCI functions and their IOMMU groups.
    libc::SYS_getdents64,
];

/// Older forms of calls above, which libraries still make where there are both.
#[cfg(target_arch = "x86_64")]
mod older {
    use libc::c_long;

    pub(super) const ALWAYS: &[c_long] =
        &[libc::SYS_poll, libc::SYS_epoll_wait, libc::SYS_time, libc::SYS_arch_prctl];
    pub(super) const PROCESS: &[c_long] = &[
        libc::SYS_open,
        libc::SYS_stat,
        libc::SYS_lstat,
        libc::SYS_unlink,
        libc::SYS_rename,
        libc::SYS_renameat,
        libc::SYS_readlink,
    ];
    pub(super) const BROKER: &[c_long] = &[libc::SYS_chmod];
}
#[cfg(target_arch = "aarch64")]
mod older {
    use libc::c_long;

    pub(super) const ALWAYS: &[c_long] = &[];
    pub(super) const PROCESS: &[c_long] = &[libc::SYS_renameat];
    pub(super) const BROKER: &[c_long] = &[];
}
#[cfg(target_arch = "riscv64")]
mod older {
    use libc::c_long;

    pub(super) const ALWAYS: &[c_long] = &[];
    pub(super) const PROCESS: &[c_long] = &[];
    pub(super) const BROKER: &[c_long] = &[];
}

/// A TAP's requests (linux/if_tun.h): TUNSETPERSIST, TUNSETOFFLOAD, TUNGETIFF, TUNGETVNETHDRSZ,
/// TUNSETVNETHDRSZ, TUNSETVNETLE, TUNSETCARRIER.
const TAP_REQUESTS: [u32; 7] =
    [0x4004_54cb, 0x4004_54d0, 0x8004_54d2, 0x8004_54d7, 0x4004_54d8, 0x4004_54dc, 0x4004_54e2];
/// To make or attach to one, and to find where it is: TUNSETIFF, TUNSETOWNER, TUNGETDEVNETNS.
const TAP_MAKING: [u32; 3] = [0x4004_54ca, 0x4004_54cc, 0x54e3];
/// NS_GET_NSTYPE (linux/nsfs.h).
const NS_GET_NSTYPE: u32 = 0xb703;
/// Descriptors that do not block, and whether one is a terminal.
#[allow(clippy::cast_possible_truncation, reason = "requests have 32 bits")]
const ANY_REQUESTS: [u32; 3] = [libc::FIONBIO as u32, libc::FIOCLEX as u32, libc::TCGETS as u32];

/// What fcntl(2) may do.
const DESCRIPTOR_COMMANDS: [c_int; 8] = [
    libc::F_DUPFD,
    libc::F_DUPFD_CLOEXEC,
    libc::F_GETFD,
    libc::F_SETFD,
    libc::F_GETFL,
    libc::F_SETFL,
    libc::F_GET_SEALS,
    libc::F_ADD_SEALS,
];

/// Flags of clone(2) that make something else than a thread.
const NEW_NAMESPACES: c_int = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;
const THREAD: c_int = libc::CLONE_THREAD | libc::CLONE_VM;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Filters what the calling thread may call from now on, and what it starts.
pub(super) fn filter(part: Part) -> io::Result<()> {
    apply(&program(part)?)
}

fn program(part: Part) -> io::Result<BpfProgram> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
    let refuse = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let filter = SeccompFilter::new(rules(part)?, refuse, SeccompAction::Allow, arch);
    filter.and_then(TryInto::try_into).map_err(io::Error::other)
}

/// Not with seccompiler's own call, which leaves out the flag: without it, kernels before 5.16 take
/// speculation from filtered threads, and make them slow.
fn apply(program: &BpfProgram) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    let filter: *const sock_filter = program.as_ptr();
    let program = libc::sock_fprog { len, filter: filter.cast_mut().cast() };
    // SAFETY: the kernel reads `len` instructions at `filter`, which outlive the call; its type is laid
    // out as the C one.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            &raw const program,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn rules(part: Part) -> io::Result<Rules> {
    let mut rules = Rules::new();
    let mut lists = vec![ALWAYS, older::ALWAYS];
    match part {
        Part::Worker => {}
        Part::Backplane => lists.extend([PROCESS, older::PROCESS]),
        Part::Control => lists.extend([PROCESS, older::PROCESS, CONTROL, MEMORY, FUNCTION]),
        Part::Broker => lists.extend([PROCESS, older::PROCESS, BROKER, older::BROKER]),
    }
    for call in lists.into_iter().flatten() {
        rules.insert(*call, Vec::new());
    }
    // Not what has a signal sent to another process when something comes.
    rules.insert(libc::SYS_fcntl, one_of(1, DESCRIPTOR_COMMANDS.map(number))?);
    // Only to its own threads, as abort(3) does.
    let own = (0, Len::Dword, Is::Eq, std::process::id().into());
    rules.insert(libc::SYS_tgkill, vec![rule(&[own])?]);
    // Memory is data: nothing that was written is executed.
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let executable = Is::MaskedEq(number(libc::PROT_EXEC));
        rules.insert(call, vec![rule(&[(2, Len::Dword, executable, 0)])?]);
    }
    if part == Part::Worker {
        return Ok(rules);
    }
    // clone3 has its flags in memory, where a filter cannot look: C libraries do without it.
    let flags = Is::MaskedEq(number(THREAD | NEW_NAMESPACES));
    rules.insert(libc::SYS_clone, vec![rule(&[(0, Len::Qword, flags, number(THREAD))])?]);
    let requests = ANY_REQUESTS.into_iter().chain(TAP_REQUESTS);
    let brokers = TAP_MAKING.into_iter().chain([NS_GET_NSTYPE]);
    let requests = requests.chain(brokers.filter(|_| part == Part::Broker));
    let control = vhost_net::REQUESTS.into_iter().filter(|_| part == Part::Control);
    let requests = requests.chain(control).chain(function_requests(part).iter().copied());
    rules.insert(libc::SYS_ioctl, one_of(1, requests.map(u64::from))?);
    // Its own limits.
    rules.insert(libc::SYS_prlimit64, one_of(0, [0])?);
    // Names of threads and memory, and what workers do to confine themselves.
    let options = [libc::PR_SET_NAME, libc::PR_SET_VMA, libc::PR_SET_NO_NEW_PRIVS];
    // A broker that has something to give back outlives its daemon.
    let brokers = [libc::PR_SET_PDEATHSIG].into_iter().filter(|_| part == Part::Broker);
    rules.insert(libc::SYS_prctl, one_of(0, options.into_iter().chain(brokers).map(number))?);
    if part == Part::Broker {
        let families = [libc::AF_UNIX, libc::AF_NETLINK, libc::AF_PACKET];
        let mut sockets = one_of(0, families.map(number))?;
        // It listens on the loopback for who asks for metrics.
        let internet = [libc::AF_INET, libc::AF_INET6].into_iter();
        for family in internet.filter(|_| cfg!(feature = "metrics")) {
            let family = (0, Len::Dword, Is::Eq, number(family));
            let stream = number(libc::SOCK_STREAM | libc::SOCK_CLOEXEC);
            sockets.push(rule(&[family, (1, Len::Dword, Is::Eq, stream)])?);
        }
        rules.insert(libc::SYS_socket, sockets);
    }
    if part == Part::Control {
        // A worker binds itself before it takes on its own list.
        rules.insert(libc::SYS_sched_setaffinity, one_of(0, [0])?);
        // A connection makes a socket of its own before it is given that of the broker.
        let netlink = (0, Len::Dword, Is::Eq, number(libc::AF_NETLINK));
        let route = (2, Len::Dword, Is::Eq, number(libc::NETLINK_ROUTE));
        rules.insert(libc::SYS_socket, vec![rule(&[netlink, route])?]);
        // A vhost-user back-end gets one end, to ask by.
        let unix = (0, Len::Dword, Is::Eq, number(libc::AF_UNIX));
        let stream = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        let stream = (1, Len::Dword, Is::Eq, number(stream));
        rules.insert(libc::SYS_socketpair, vec![rule(&[unix, stream])?]);
    }
    Ok(rules)
}

/// VFIO's: the broker opens devices, and the daemon uses them.
#[cfg(feature = "pci")]
fn function_requests(part: Part) -> &'static [u32] {
    match part {
        Part::Broker => &pci::OPENING,
        Part::Control => &pci::USING,
        Part::Backplane | Part::Worker => &[],
    }
}
#[cfg(not(feature = "pci"))]
fn function_requests(_: Part) -> &'static [u32] {
    &[]
}

/// Flags and numbers, which are not negative.
fn number(value: c_int) -> u64 {
    value.unsigned_abs().into()
}

fn rule(conditions: &[(u8, Len, Is, u64)]) -> io::Result<SeccompRule> {
    let conditions = conditions
        .iter()
        .cloned()
        .map(|(argument, len, is, value)| SeccompCondition::new(argument, len, is, value));
    let conditions = conditions.collect::<Result<_, _>>().map_err(io::Error::other)?;
    SeccompRule::new(conditions).map_err(io::Error::other)
}

/// An argument that is one of these numbers.
fn one_of(argument: u8, numbers: impl IntoIterator<Item = u64>) -> io::Result<Vec<SeccompRule>> {
    numbers.into_iter().map(|n| rule(&[(argument, Len::Dword, Is::Eq, n)])).collect()
}
