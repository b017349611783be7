//! Reads how the two ends of a link lay out the window and what they speak: `layout` and `dialect`.

use toml::de::DeTable;

use super::link::{self, Choice};
use super::reader::Reader;
use super::{Dialect, Layout, LinkConfig, Pump, Transport};

const LAYOUT: Choice = Choice { key: "layout", now: &["boardlane", "amp-pci"], later: &[] };

const DIALECT: Choice = Choice { key: "dialect", now: &["v2", "v1"], later: &[] };

const REMEDY: &str = r#"take this line out, or write layout = "boardlane""#;

/// Layout and dialect. The latter follows from "amp-pci", whose messages have 64 bytes at most.
pub(super) fn read(reader: &mut Reader<'_>, table: &DeTable<'_>) -> (Layout, Dialect) {
    let dialect = link::read_choice(reader, table, &DIALECT);
    let layout = link::read_choice(reader, table, &LAYOUT);
    if layout != Some("amp-pci") {
        let dialect = if dialect == Some("v1") { Dialect::V1 } else { Dialect::V2 };
        return (Layout::Boardlane, dialect);
    }
    if let (Some("v2"), Some(value)) = (dialect, table.get("dialect")) {
        let what = r#"layout "amp-pci" is made for dialect "v1""#;
        reader.problem(value.span(), what, r#"write "v1", or take this line out"#);
    }
    (Layout::AmpPci, Dialect::V1)
}

/// Notes what stands beside the layout "amp-pci" and does not go with it.
pub(super) fn check(reader: &mut Reader<'_>, table: &DeTable<'_>, link: &LinkConfig) {
    if link.layout != Layout::AmpPci {
        return;
    }
    // Beside vhost-user: no layout may stand, which has been told.
    let over_shm = matches!(link.transport, Transport::Shm(_) | Transport::VhostUser { .. });
    for (key, _) in table {
        let what = match key.get_ref().as_ref() {
            "transport" if !over_shm => "layout \"amp-pci\" goes over shm: only in this version",
            "pump" if link.pump == Pump::VhostNet => {
                "vhost-net rings doorbells, and with layout \"amp-pci\" messages are in their place"
            }
            "engine" if link.engine.dma_only => {
                "dma_only puts rings into the window, and with layout \"amp-pci\" none is there"
            }
            _ => continue,
        };
        reader.problem(key.span(), what, REMEDY);
    }
}
