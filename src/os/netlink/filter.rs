//! A filter of the kernel's on a socket of notices: which netdevs they are of.
//!
//! It is a program of classic BPF, run for each message before the socket gets it. Loads are big-endian,
//! and netlink's fields are in the host's order, so each constant is turned as the field is. A message that
//! is of no kind that is known here passes.

#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io;
use std::os::fd::RawFd;

use libc::{
    BPF_ABS, BPF_H, BPF_IMM, BPF_IND, BPF_JA, BPF_JEQ, BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_LDX,
    BPF_MISC, BPF_RET, BPF_TAX, BPF_W, sock_filter, sock_fprog,
};

/// Fields of `struct nlmsghdr` (linux/netlink.h), by their offsets.
const TYPE: u32 = 4;
const FLAGS: u32 = 6;
/// The index in `struct ifinfomsg` and in `struct ifaddrmsg`, which follow it.
const INDEX: u32 = 20;
/// The index in the first attribute behind `struct netconfmsg` (linux/netconf.h), of a word with its padding.
const NETCONF_INDEX: u32 = 24;
/// Where the attributes behind `struct rtmsg` begin.
const ROUTE_ATTRIBUTES: u32 = 28;
/// An attribute's value is behind its length and kind.
const VALUE: u32 = 4;
/// A route that has taken the place of one that is not told of.
const NLM_F_REPLACE: u16 = 0x100;
/// `SKF_AD_OFF + SKF_AD_NLATTR` (linux/filter.h): finds an attribute of the kind in X, from offset A on; its
/// offset, or 0.
const FIND_ATTRIBUTE: u32 = 0xffff_f000 + 12;
/// Whole messages, and none.
const PASS: u32 = u32::MAX;
const DROP: u32 = 0;
/// More instructions the kernel does not take (`BPF_MAXINSNS`).
const MOST: usize = 4096;

/// Messages of links and addresses, which have the index in one place.
const OF_INDEX: [u16; 4] =
    [libc::RTM_NEWLINK, libc::RTM_DELLINK, libc::RTM_NEWADDR, libc::RTM_DELADDR];
const OF_ROUTES: [u16; 2] = [libc::RTM_NEWROUTE, libc::RTM_DELROUTE];
/// `RTM_NEWNETCONF` and `RTM_DELNETCONF` (linux/rtnetlink.h).
const OF_SETTINGS: [u16; 2] = [80, 81];

/// Sets the filter of a socket, or takes it off if there are no indices, or too many.
pub(super) fn set(socket: RawFd, indices: &[u32]) -> io::Result<()> {
    let program = if indices.is_empty() { Vec::new() } else { program(indices) };
    let Some(len) = u16::try_from(program.len()).ok().filter(|n| (1..=MOST).contains(&(*n).into()))
    else {
        let none: c_int = 0;
        return match option(socket, libc::SO_DETACH_FILTER, &none) {
            // There was none.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            done => done,
        };
    };
    let program = sock_fprog { len, filter: program.as_ptr().cast_mut() };
    option(socket, libc::SO_ATTACH_FILTER, &program)
}

fn option<T>(socket: RawFd, name: c_int, value: &T) -> io::Result<()> {
    let len = libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `len` bytes, which `value` has, and of a program the instructions that it
    // points to, which live as long.
    let done = unsafe {
        libc::setsockopt(socket, libc::SOL_SOCKET, name, (&raw const *value).cast(), len)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The program that passes what has to do with these netdevs.
fn program(indices: &[u32]) -> Vec<sock_filter> {
    let load = |size, offset| step(BPF_LD | size | BPF_ABS, offset);
    // Where each kind's part begins, behind the end that is for others.
    let (to_route, to_settings, to_index) = (0, 10, 12);
    let mut program = vec![load(BPF_H, TYPE)];
    let kinds = OF_INDEX.map(|kind| (kind, to_index)).into_iter();
    let kinds = kinds.chain(OF_ROUTES.map(|kind| (kind, to_route)));
    let kinds: Vec<_> = kinds.chain(OF_SETTINGS.map(|kind| (kind, to_settings))).collect();
    for (at, (kind, to)) in kinds.iter().enumerate() {
        program.push(jump(BPF_JEQ, kind.to_be().into(), kinds.len() - at + to, 0));
    }
    program.push(step(BPF_RET | BPF_K, PASS));
    program.extend([
        load(BPF_H, FLAGS),
        jump(BPF_JSET, NLM_F_REPLACE.to_be().into(), 4, 0),
        step(BPF_LDX | BPF_IMM, libc::RTA_OIF.into()),
        step(BPF_LD | BPF_IMM, ROUTE_ATTRIBUTES),
        load(BPF_W, FIND_ATTRIBUTE),
        jump(BPF_JEQ, 0, 0, 1),
        step(BPF_RET | BPF_K, PASS),
        step(BPF_MISC | BPF_TAX, 0),
        step(BPF_LD | BPF_W | BPF_IND, VALUE),
        step(BPF_JMP | BPF_JA, 3),
        load(BPF_W, NETCONF_INDEX),
        step(BPF_JMP | BPF_JA, 1),
        load(BPF_W, INDEX),
    ]);
    for index in indices {
        program.push(jump(BPF_JEQ, index.to_be(), 0, 1));
        program.push(step(BPF_RET | BPF_K, PASS));
    }
    program.push(step(BPF_RET | BPF_K, DROP));
    program
}

fn step(code: u32, k: u32) -> sock_filter {
    sock_filter { code: u16::try_from(code).unwrap_or(u16::MAX), jt: 0, jf: 0, k }
}

/// A jump over so many instructions.
fn jump(test: u32, k: u32, over_if: usize, over_else: u8) -> sock_filter {
    let jt = u8::try_from(over_if).unwrap_or(u8::MAX);
    sock_filter { jt, jf: over_else, ..step(BPF_JMP | test | BPF_K, k) }
}
