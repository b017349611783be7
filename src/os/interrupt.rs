//! Ends the system call in which a thread is blocked.
//!
//! A doorbell is an eventfd that a peer shares: it may fill it, empty it and make it block at any moment,
//! and so hold whoever rings it in write(2), for as long as it likes. Making room does not help for
//! certain, as the peer may be faster in filling it again. A signal does: the call ends with EINTR.

#![allow(unsafe_code)]

use std::os::unix::thread::JoinHandleExt;
use std::sync::Once;
use std::thread::JoinHandle;
use std::time::Duration;

/// By default it is ignored, so whoever gets it without our handler is not harmed.
const SIGNAL: libc::c_int = libc::SIGURG;
/// Between interruptions: a thread may be just before the call that blocks.
const AGAIN: Duration = Duration::from_micros(200);

extern "C" fn nothing(_: libc::c_int) {}

/// Interrupts the system call in which this thread is, if it is in one.
pub fn interrupt<T>(thread: &JoinHandle<T>) {
    static HANDLER: Once = Once::new();
    HANDLER.call_once(|| {
        // SAFETY: all zero octets are a sigaction: no flags (so a call is not restarted), an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as libc::sighandler_t;
        // SAFETY: the handler does nothing, which is safe at any moment; nobody else has one for this
        // signal. A failure would mean a wrong signal number.
        unsafe { libc::sigaction(SIGNAL, &raw const action, std::ptr::null_mut()) };
    });
    // SAFETY: a thread that has not been joined has its id, whether it has ended or not.
    unsafe { libc::pthread_kill(thread.as_pthread_t(), SIGNAL) };
}

/// Waits for a thread that was told to end, and gives what it returns; `None` if it panicked. After
/// `patience` it is interrupted till it ends, which it does once it sees what it was told.
pub fn join<T>(thread: JoinHandle<T>, patience: Duration) -> Option<T> {
    let since = std::time::Instant::now();
    while !thread.is_finished() {
        if since.elapsed() > patience {
            interrupt(&thread);
        }
        std::thread::sleep(AGAIN);
    }
    // Its panic has been printed.
    thread.join().ok()
}
