//! Which pump moves a link's frames: the kernel's vhost-net, where the config asks for it and it can be
//! had, otherwise this program's own. Whoever looks for the reason finds it in the log and in `status`.

use std::os::fd::OwnedFd;

use super::LinkTask;
use crate::daemon::config::Pump;
use crate::daemon::status::PumpStatus;
use crate::memory::BusMemory;
use crate::net::features::Features;
use crate::os::vhost_net;

impl LinkTask {
    /// Looks whether the kernel can move this link's frames, if the config asks for that. It is for one
    /// connection, as what is offered there depends on it.
    pub(super) async fn look_for_vhost(&self) {
        self.vhost.set(None);
        if self.config.pump != Pump::VhostNet {
            return;
        }
        let device = self.vhost_device().await;
        match device.and_then(|device| vhost_net::features(device).map_err(|e| e.to_string())) {
            Ok(features) => {
                self.vhost.set(Some(features));
                self.tell_pump(Pump::VhostNet, None);
            }
            Err(why) => self.pump_ourselves(why),
        }
    }

    /// Opens a vhost-net for a queue pair.
    pub(super) async fn vhost_device(&self) -> Result<OwnedFd, String> {
        self.broker.vhost_net(&self.config.name).await
    }

    /// Features that the link's device does without, because the kernel is to move its frames in this
    /// memory.
    pub(super) fn unfit_for_vhost(&self, mem: &BusMemory) -> Features {
        let Some(features) = self.vhost.get() else { return Features::NONE };
        match vhost_net::check_memory(mem) {
            Ok(()) => vhost_net::unfit(features),
            Err(e) => {
                self.pump_ourselves(e.to_string());
                Features::NONE
            }
        }
    }

    /// The kernel cannot move this connection's frames after all. What was not offered for its sake
    /// stays so until the next one.
    pub(super) fn pump_ourselves(&self, why: String) {
        self.vhost.set(None);
        self.tell_pump(Pump::Builtin, Some(why));
    }

    fn tell_pump(&self, pump: Pump, reason: Option<String>) {
        let told = PumpStatus { mode: pump.to_string(), reason };
        let mut view = self.view.borrow_mut();
        if view.pump == told {
            return;
        }
        match &told.reason {
            None => self.log.info(format_args!("frames are moved by the kernel's vhost-net")),
            Some(why) => {
                let what = "frames are moved by this program, not by the kernel";
                self.log.warn(format_args!("{what}: {why}"));
            }
        }
        view.pump = told;
    }
}
