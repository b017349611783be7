//! Reads who moves a link's frames between its rings and its netdev: `pump`.

use toml::de::DeTable;

use super::link::{self, Choice};
use super::reader::Reader;
use super::{Dma, Port, Pump, Transport};
use crate::daemon::Role;

const PUMP: Choice = Choice { key: "pump", now: &["builtin", "vhost-net"], later: &[] };

const REMEDY: &str = r#"take this line out, or write pump = "builtin""#;

/// The pump, beside which nothing may stand that only another one can do.
pub(super) fn read(
    reader: &mut Reader<'_>,
    table: &DeTable<'_>,
    role: Role,
    transport: Option<&Transport>,
    port: Port,
    dma: Dma,
) -> Pump {
    if link::read_choice(reader, table, &PUMP) != Some("vhost-net") {
        return Pump::Builtin;
    }
    // One that is not right has been told of.
    let reaches = transport.is_none_or(|transport| matches!(transport, Transport::Shm(_)));
    for (key, _) in table {
        let what = match key.get_ref().as_ref() {
            "pump" if role == Role::Master => {
                "vhost-net serves a device's end of a link, and the master has the driver's"
            }
            "transport" if !reaches => "vhost-net serves links over shm: only in this version",
            "port" if port != Port::Tap => "vhost-net moves frames to and from a netdev only",
            "dma" if dma == Dma::Engine => "vhost-net copies by itself, not by a DMA engine",
            "allow_mac" | "allow_ip" => "vhost-net lets frames pass whosever they are",
            "rate" => "vhost-net moves frames as fast as they come",
            "cpu" => "vhost-net moves frames by threads of the kernel's",
            _ => continue,
        };
        reader.problem(key.span(), what, REMEDY);
    }
    Pump::VhostNet
}
