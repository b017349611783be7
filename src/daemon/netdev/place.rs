//! Where a netdev is, and what it is called. Somebody may rename it or move it to another network namespace,
//! and the TAP's descriptor stays its own: by that it is found, brought back, and given its name again.

use std::time::Instant;

use rustix::io::Errno;

use super::subject::Subject;
use super::{Look, Netdev};
use crate::daemon::namespaces::Strays;
use crate::os::tap::TapError;

/// A netdev that is renamed while it is looked for is looked for again; so often, then it is found next time.
const TRIES: u32 = 4;

impl Netdev {
    /// Waits until somebody may have changed the netdev, so that [`heal`](Self::heal) has something to do:
    /// at once after a quiet time, else as `Pace` has it. Nothing is lost if it is dropped early.
    pub async fn changed(&mut self) {
        loop {
            let now = Instant::now();
            let due = self.pace.due();
            if due.is_some_and(|due| due <= now) {
                return;
            }
            let sleep = tokio::time::sleep_until(due.unwrap_or(now).into());
            let listens = self.pace.listens(now);
            tokio::select! {
                () = is_stray(&mut self.strays, &self.subject.desired.name) => {
                    self.homeless = true;
                    return;
                }
                () = sleep, if due.is_some() => return,
                () = self.watch.changed(), if listens => self.pace.changed(Instant::now()),
            }
        }
    }

    /// Finds the netdev, and with `sets` has it where it belongs; that it has not its name back is an inner
    /// error, with which it goes on.
    ///
    /// # Errors
    /// It cannot be worked with.
    pub(super) async fn find(&mut self, sets: bool) -> Result<Result<(), String>, Look> {
        if self.homeless {
            // Nobody could reach it there.
            self.let_go();
            return Err(Look::Gone(
                "the netdev's network namespace does not exist any more".into(),
            ));
        }
        let mut name = self.name_now()?;
        for _ in 0..TRIES {
            let here = self.subject.netlink.name_of(self.subject.index).await;
            if here.map_err(|e| Look::Failed(e.to_string()))?.as_deref() == Some(&*name) {
                return Ok(self.rename(name, sets).await);
            }
            let now = self.name_now()?;
            if now == name {
                break;
            }
            name = now;
        }
        if !sets {
            return Err(Look::Failed("the netdev is in another network namespace".into()));
        }
        self.bring_home().await?;
        Ok(Ok(()))
    }

    /// Whether another start would find it.
    pub async fn is_in_its_place(&self) -> bool {
        let Subject { netlink, index, desired, .. } = &self.subject;
        let here = netlink.name_of(*index).await.ok().flatten();
        here.as_ref() == Some(&desired.name) && self.tap.current_name().ok() == here
    }

    /// The netdev's name, wherever it is.
    fn name_now(&self) -> Result<String, Look> {
        match self.tap.current_name() {
            Err(TapError::Os { errno: Errno::BADFD, .. }) => {
                Err(Look::Gone("the netdev has been deleted".into()))
            }
            name => name.map_err(|e| Look::Failed(e.to_string())),
        }
    }

    async fn rename(&mut self, name: String, sets: bool) -> Result<(), String> {
        let wanted = &self.subject.desired.name;
        if name == *wanted {
            return Ok(());
        }
        if !sets {
            return Err(format!("differs: name is {name}, not {wanted}"));
        }
        let renamed = self.subject.netlink.rename(self.subject.index, wanted).await;
        renamed.map_err(|e| format!("the netdev has been renamed to {name}, and stays so: {e}"))?;
        // One name for it, whatever it was, by which it is known how often that was.
        self.subject.healed.push(format!("name {wanted}"));
        Ok(())
    }

    async fn bring_home(&mut self) -> Result<(), Look> {
        let name = &self.subject.desired.name;
        match self.broker.home(name, &self.tap).await {
            Ok(Some(index)) => self.subject.index = index,
            Ok(None) => {
                let why = "the netdev is in another network namespace, and this kernel does not tell in which";
                self.let_go();
                return Err(Look::Gone(why.into()));
            }
            Err(e) => return Err(Look::Failed(e)),
        }
        self.subject.healed.push("network namespace".into());
        // A move has set it down, whoever it was that it was set up by.
        self.subject.desired.up = Some(self.config_up.unwrap_or(self.up));
        Ok(())
    }

    /// The netdev goes when this does.
    fn let_go(&self) {
        if let Err(e) = self.tap.set_persistent(false) {
            tracing::warn!("{}: {e}", self.subject.desired.name);
        }
    }
}

/// Waits until this link is among those that have lost their network namespaces.
async fn is_stray(strays: &mut Strays, name: &str) {
    loop {
        if strays.changed().await.is_err() {
            // The supervisor has gone.
            std::future::pending::<()>().await;
        }
        if strays.borrow_and_update().iter().any(|stray| stray == name) {
            return;
        }
    }
}
