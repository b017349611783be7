//! Slots of a backplane in this process, each mapped twice as two daemons would.
//!
//! The server is stopped once all are connected: memory lives as long as a client holds it. What a
//! case leaves in a slot the next one finds there.

use std::sync::{Arc, Condvar, Mutex, OnceLock};

use boardlane::memory::Mapping;
use boardlane::os::access::Access;
use boardlane::os::fabric::backplane::{Backplane, BackplaneConfig};
use boardlane::os::fabric::shm::ShmLink;

use super::SLOT;

/// As many as cases run at a time, on small machines.
const SLOTS: u16 = 4;

/// Both ends' mappings of a slot.
type Ends = [Arc<Mapping>; 2];

struct Pool {
    free: Mutex<Vec<Ends>>,
    returned: Condvar,
}

/// A slot, for the time of a case.
pub(crate) struct Lease(Ends);

impl Lease {
    pub(crate) fn take() -> Self {
        let pool = pool();
        let free = pool.free.lock().unwrap();
        let mut free = pool.returned.wait_while(free, |free| free.is_empty()).unwrap();
        Self(free.pop().unwrap())
    }

    pub(crate) fn ends(&self) -> &Ends {
        &self.0
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let pool = pool();
        pool.free.lock().unwrap().push(self.0.clone());
        pool.returned.notify_one();
    }
}

fn pool() -> &'static Pool {
    static POOL: OnceLock<Pool> = OnceLock::new();
    POOL.get_or_init(|| Pool { free: Mutex::new(connect()), returned: Condvar::new() })
}

fn connect() -> Vec<Ends> {
    let dir = std::env::temp_dir().join(format!("boardlane-hostile-{}", std::process::id()));
    let config = BackplaneConfig {
        dir: dir.clone(),
        slots: SLOTS,
        slot_len: SLOT,
        vectors: 2,
        access: Access::default(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ends = runtime.block_on(async {
        let backplane = Backplane::open(&config).unwrap();
        let connect = async {
            let mut all = Vec::new();
            for slot in 0..SLOTS {
                let (a, b) = (ShmLink::connect(config.socket(slot)), config.socket(slot));
                let (a, b) = (a.await.unwrap(), ShmLink::connect(b).await.unwrap());
                all.push([a.slot().memory.clone(), b.slot().memory.clone()]);
            }
            all
        };
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let serve = backplane.serve(async { drop(stopped.await) });
        let connect = async {
            let ends = connect.await;
            drop(stop);
            ends
        };
        tokio::join!(serve, connect).1
    });
    std::fs::remove_dir_all(dir).unwrap();
    ends
}
