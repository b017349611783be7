//! Waits for a UIO device's interrupt.
//!
//! The thread waits for the file to have something to read, takes it, takes the interrupt back at the
//! device, rings the eventfd, and switches the interrupt on again: one that comes at any moment after the
//! first of these is told by another ring.
//!
//! A device may interrupt without end, or the other end may have it do so. Beyond what traffic needs it is
//! heard once in a while, and meanwhile it is off.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::{Errno, read, write};
use tokio::sync::watch;

use crate::memory::Mapping;
use crate::os::interrupt::join;
use crate::os::pace::Pace;
use crate::os::poll::ring;

/// Interrupts that are heard at once, and how soon another is after that. Frames in batches bring fewer.
const BURST: u32 = 1024;
const INTERVAL: Duration = Duration::from_micros(50);

/// A register that takes an interrupt back.
#[derive(Debug)]
pub(super) struct Clear {
    pub(super) mapping: Arc<Mapping>,
    /// Where it is, a multiple of 4 inside the mapping.
    pub(super) offset: usize,
    /// What is written to it; it is read if this is `None`.
    pub(super) value: Option<u32>,
}

impl Clear {
    fn clear(&self) {
        let register = self.mapping.view(self.offset, 4);
        match self.value {
            Some(value) => register.store_le32(0, value),
            None => drop(register.load_le32(0)),
        }
    }
}

/// Whether the device has an interrupt: one without fails whoever waits for it.
pub(super) fn is_there(file: impl AsFd) -> io::Result<bool> {
    let mut fds = [PollFd::new(&file, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec::default()))?;
    Ok(!fds[0].revents().intersects(PollFlags::ERR | PollFlags::HUP))
}

/// The thread that waits. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Interrupt {
    bell: Arc<OwnedFd>,
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    lost: watch::Receiver<Option<String>>,
}

impl Interrupt {
    /// Starts it on the device's open file.
    ///
    /// # Errors
    /// No thread or descriptor can be had.
    pub(super) fn start(file: OwnedFd, clear: Option<Clear>) -> io::Result<Self> {
        let new = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(Arc::new);
        let (bell, stop) = (new()?, new()?);
        let (tell, lost) = watch::channel(None);
        let wait = Wait { file, bell: bell.clone(), stop: stop.clone(), clear };
        let thread = std::thread::Builder::new().name("bl-uio".to_owned()).spawn(move || {
            if let Err(error) = wait.run() {
                tell.send_replace(Some(format!("its interrupt: {error}")));
            }
        })?;
        Ok(Self { bell, stop, thread: Some(thread), lost })
    }

    /// What it rings.
    pub(super) fn bell(&self) -> &Arc<OwnedFd> {
        &self.bell
    }

    /// Waits until there is no interrupt any more: why.
    pub(super) async fn lost(&mut self) -> String {
        match self.lost.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            // It has ended without a word, as it panicked.
            Err(_) => "its thread has ended".to_owned(),
        }
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        // A failure would mean a closed descriptor, which it holds open itself.
        let _ = ring(&*self.stop);
        if let Some(thread) = self.thread.take() {
            join(thread, Duration::from_millis(20));
        }
    }
}

struct Wait {
    file: OwnedFd,
    bell: Arc<OwnedFd>,
    stop: Arc<OwnedFd>,
    clear: Option<Clear>,
}

impl Wait {
    /// Until it is told to stop, or an error.
    fn run(&self) -> io::Result<()> {
        let mut pace = Pace::new(Instant::now(), BURST, INTERVAL);
        loop {
            // A driver that needs no switching on refuses it.
            let _ = write(&self.file, &1i32.to_ne_bytes());
            if self.sleep(Some(&self.file), None)? {
                return Ok(());
            }
            // How many interrupts there were, which says nothing.
            match read(&self.file, &mut [0; 4]) {
                Ok(4) => {}
                Ok(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(Errno::AGAIN | Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            if let Some(clear) = &self.clear {
                clear.clear();
            }
            ring(&*self.bell)?;
            let now = Instant::now();
            if let Some(next) = pace.count(now) {
                if self.sleep(None, Some(next - now))? {
                    return Ok(());
                }
            }
        }
    }

    /// Waits until the file can be read, or for a time; `true` if the thread is to end.
    fn sleep(&self, file: Option<&OwnedFd>, time: Option<Duration>) -> io::Result<bool> {
        let time = time.and_then(|time| Timespec::try_from(time).ok());
        let mut fds =
            [&self.stop, file.unwrap_or(&self.stop)].map(|fd| PollFd::new(fd, PollFlags::IN));
        match poll(&mut fds, time.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(!fds[0].revents().is_empty()),
            Err(error) => Err(error.into()),
        }
    }
}
