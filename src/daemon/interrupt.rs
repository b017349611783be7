//! The wish to end: SIGINT (Ctrl-C), SIGTERM or SIGHUP set a flag that every wait of a demo or a capture
//! looks at. Once the flag is set further signals change nothing: what is left is the cleaning up.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

/// Catches the signals from now on, for the rest of the process.
///
/// # Errors
/// The handlers cannot be installed.
pub(in crate::daemon) fn watch() -> io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let shared = Arc::clone(&flag);
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate, mut hang_up) = {
        let _inside = runtime.enter();
        (
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        )
    };
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hang_up.recv() => {}
            }
        });
        shared.store(true, Ordering::Relaxed);
    })?;
    Ok(flag)
}
