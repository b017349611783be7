//! Feature bits of a network device: their names, and which need which (virtio 1.4 §5.1.3, §6).
//!
//! A [`Features`] is a set of bits. What a driver accepts must be a subset of the offer and must hold
//! together: [`check`] says so, or names the bit that it fails for.

use std::fmt;

use crate::spec::{net, virtio};

/// A set of feature bits 0 to 127.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(u128);

/// One row of the table: bit, name, and what it needs: one of each group.
type Row = (u8, &'static str, &'static [&'static [u8]]);

const CTRL_VQ: &[u8] = &[net::F_CTRL_VQ];
const GUEST_USO4: &[u8] = &[net::F_GUEST_USO4];
const GUEST_USO6: &[u8] = &[net::F_GUEST_USO6];
const CSUM: &[u8] = &[net::F_CSUM];
const GUEST_CSUM: &[u8] = &[net::F_GUEST_CSUM];
const HOST_TSO: &[u8] = &[net::F_HOST_TSO4, net::F_HOST_TSO6];
const GUEST_TSO: &[u8] = &[net::F_GUEST_TSO4, net::F_GUEST_TSO6];

/// Every bit that has a name. The standard's list of requirements leaves out that `CTRL_RX_EXTRA`
/// and `HASH_REPORT` are used through the control queue; they are nothing without it. It lets
/// `GUEST_USO4` and `GUEST_USO6` go alone; a TAP takes only both.
const TABLE: &[Row] = &[
    (net::F_CSUM, "CSUM", &[]),
    (net::F_GUEST_CSUM, "GUEST_CSUM", &[]),
    (net::F_CTRL_GUEST_OFFLOADS, "CTRL_GUEST_OFFLOADS", &[CTRL_VQ]),
    (net::F_MTU, "MTU", &[]),
    (net::F_MAC, "MAC", &[]),
    (6, "GSO", &[]),
    (net::F_GUEST_TSO4, "GUEST_TSO4", &[GUEST_CSUM]),
    (net::F_GUEST_TSO6, "GUEST_TSO6", &[GUEST_CSUM]),
    (net::F_GUEST_ECN, "GUEST_ECN", &[GUEST_TSO]),
    (10, "GUEST_UFO", &[GUEST_CSUM]),
    (net::F_HOST_TSO4, "HOST_TSO4", &[CSUM]),
    (net::F_HOST_TSO6, "HOST_TSO6", &[CSUM]),
    (net::F_HOST_ECN, "HOST_ECN", &[HOST_TSO]),
    (14, "HOST_UFO", &[CSUM]),
    (net::F_MRG_RXBUF, "MRG_RXBUF", &[]),
    (net::F_STATUS, "STATUS", &[]),
    (net::F_CTRL_VQ, "CTRL_VQ", &[]),
    (net::F_CTRL_RX, "CTRL_RX", &[CTRL_VQ]),
    (net::F_CTRL_VLAN, "CTRL_VLAN", &[CTRL_VQ]),
    (20, "CTRL_RX_EXTRA", &[CTRL_VQ]),
    (net::F_GUEST_ANNOUNCE, "GUEST_ANNOUNCE", &[CTRL_VQ]),
    (net::F_MQ, "MQ", &[CTRL_VQ]),
    (net::F_CTRL_MAC_ADDR, "CTRL_MAC_ADDR", &[CTRL_VQ]),
    (24, "NOTIFY_ON_EMPTY", &[]),
    (27, "ANY_LAYOUT", &[]),
    (virtio::F_INDIRECT_DESC, "INDIRECT_DESC", &[]),
    (virtio::F_EVENT_IDX, "EVENT_IDX", &[]),
    (virtio::F_VERSION_1, "VERSION_1", &[]),
    (virtio::F_ACCESS_PLATFORM, "ACCESS_PLATFORM", &[]),
    (virtio::F_RING_PACKED, "RING_PACKED", &[]),
    (virtio::F_IN_ORDER, "IN_ORDER", &[]),
    (virtio::F_ORDER_PLATFORM, "ORDER_PLATFORM", &[]),
    (37, "SR_IOV", &[]),
    (virtio::F_NOTIFICATION_DATA, "NOTIFICATION_DATA", &[]),
    (39, "NOTIF_CONFIG_DATA", &[]),
    (virtio::F_RING_RESET, "RING_RESET", &[]),
    (41, "ADMIN_VQ", &[]),
    (43, "SUSPEND", &[]),
    (50, "DEVICE_STATS", &[]),
    (51, "HASH_TUNNEL", &[CTRL_VQ, &[57, 60]]),
    (52, "VQ_NOTF_COAL", &[CTRL_VQ]),
    (net::F_NOTF_COAL, "NOTF_COAL", &[CTRL_VQ]),
    (net::F_GUEST_USO4, "GUEST_USO4", &[GUEST_CSUM, GUEST_USO6]),
    (net::F_GUEST_USO6, "GUEST_USO6", &[GUEST_CSUM, GUEST_USO4]),
    (net::F_HOST_USO, "HOST_USO", &[CSUM]),
    (57, "HASH_REPORT", &[CTRL_VQ]),
    (59, "GUEST_HDRLEN", &[]),
    (60, "RSS", &[CTRL_VQ]),
    (61, "RSC_EXT", &[HOST_TSO]),
    (62, "STANDBY", &[]),
    (net::F_SPEED_DUPLEX, "SPEED_DUPLEX", &[]),
    (64, "RSS_CONTEXT", &[CTRL_VQ, &[60]]),
    (
        65,
        "GUEST_UDP_TUNNEL_GSO",
        &[&[net::F_GUEST_TSO4], &[net::F_GUEST_TSO6], GUEST_USO4, GUEST_USO6],
    ),
    (66, "GUEST_UDP_TUNNEL_GSO_CSUM", &[&[65]]),
    (67, "HOST_UDP_TUNNEL_GSO", &[&[net::F_HOST_TSO4], &[net::F_HOST_TSO6], &[net::F_HOST_USO]]),
    (68, "HOST_UDP_TUNNEL_GSO_CSUM", &[&[67]]),
    (69, "OUT_NET_HEADER", &[]),
    (70, "IPSEC", &[]),
];

impl Features {
    /// No feature.
    pub const NONE: Self = Self(0);

    /// What this program's device offers where nothing is turned off and all memory is cached.
    pub const OFFER: Self = Self::of(&[
        virtio::F_VERSION_1,
        virtio::F_ACCESS_PLATFORM,
        virtio::F_RING_PACKED,
        virtio::F_IN_ORDER,
        virtio::F_ORDER_PLATFORM,
        virtio::F_EVENT_IDX,
        virtio::F_INDIRECT_DESC,
        net::F_MAC,
        net::F_MTU,
        net::F_STATUS,
        net::F_MRG_RXBUF,
        net::F_CSUM,
        net::F_GUEST_CSUM,
        net::F_HOST_TSO4,
        net::F_HOST_TSO6,
        net::F_GUEST_TSO4,
        net::F_GUEST_TSO6,
        net::F_HOST_ECN,
        net::F_GUEST_ECN,
        net::F_HOST_USO,
        net::F_GUEST_USO4,
        net::F_GUEST_USO6,
        virtio::F_RING_RESET,
        net::F_SPEED_DUPLEX,
        net::F_CTRL_VQ,
        net::F_CTRL_RX,
        net::F_CTRL_MAC_ADDR,
        net::F_CTRL_VLAN,
        net::F_CTRL_GUEST_OFFLOADS,
        net::F_GUEST_ANNOUNCE,
        net::F_MQ,
        net::F_NOTF_COAL,
    ]);

    /// What this program's driver accepts of it: a TAP does not tell which VLANs its kernel wants.
    pub const ACCEPT: Self = Self::OFFER.minus(Self::of(&[net::F_CTRL_VLAN]));

    /// The set of these bits, each below 128.
    pub const fn of(bits: &[u8]) -> Self {
        let mut set = 0;
        let mut i = 0;
        while i < bits.len() {
            set |= 1 << bits[i];
            i += 1;
        }
        Self(set)
    }

    /// The set as a number whose bit n is feature n.
    pub const fn from_bits(bits: u128) -> Self {
        Self(bits)
    }

    /// The number whose bit n is feature n.
    pub const fn bits(self) -> u128 {
        self.0
    }

    /// The features of these names ([`names`](Self::names)).
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, FeatureError> {
        names.into_iter().try_fold(Self::NONE, |set, name| match bit(name) {
            Some(bit) => Ok(set.union(Self::of(&[bit]))),
            None => Err(FeatureError::UnknownName(name.to_owned())),
        })
    }

    /// Whether feature `bit` is in the set.
    pub const fn has(self, bit: u8) -> bool {
        bit < 128 && self.0 >> bit & 1 == 1
    }

    /// Whether all of `other` is in the set.
    pub const fn contains(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    /// What is in either.
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    pub const fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is here and not in `other`.
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The set without `off`, and without all that needs something of it.
    pub fn without(self, off: Self) -> Self {
        let mut left = self.minus(off);
        while let Some((bit, _, _)) = left.in_need() {
            left = left.minus(Self::of(&[bit]));
        }
        left
    }

    /// Features `32 index` to `32 index + 31`, as transports ask for them.
    pub const fn block(self, index: u32) -> u32 {
        #[allow(clippy::cast_possible_truncation, reason = "the lower half is what is asked for")]
        if index < 4 { (self.0 >> (32 * index)) as u32 } else { 0 }
    }

    /// The set with features `32 index` to `32 index + 31` replaced; `index` must be below 4.
    #[must_use]
    pub fn with_block(self, index: u32, bits: u32) -> Self {
        let at = 32 * index;
        Self(self.0 & !(u128::from(u32::MAX) << at) | u128::from(bits) << at)
    }

    /// How many blocks of 32 bits cover the set, at least the two that every driver knows.
    pub const fn blocks(self) -> u32 {
        let used = (128 - self.0.leading_zeros()).div_ceil(32);
        if used < 2 { 2 } else { used }
    }

    /// The names of the set's features that have one, by bit.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        TABLE.iter().filter(move |row| self.has(row.0)).map(|row| row.1)
    }

    /// A feature of the set that needs what is not in it: bit, name, the group of which one is needed.
    fn in_need(self) -> Option<(u8, &'static str, &'static [u8])> {
        TABLE.iter().filter(|row| self.has(row.0)).find_map(|&(bit, name, needs)| {
            let group = needs.iter().find(|group| !group.iter().any(|bit| self.has(*bit)))?;
            Some((bit, name, *group))
        })
    }
}

impl fmt::Display for Features {
    /// Names, and numbers of what has none, with commas.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for bit in (0..128).filter(|bit| self.has(*bit)) {
            match name(bit) {
                Some(name) => write!(f, "{comma}{name}")?,
                None => write!(f, "{comma}bit {bit}")?,
            }
            comma = ", ";
        }
        if comma.is_empty() { f.write_str("none") } else { Ok(()) }
    }
}

/// The name of a feature, without the standard's `VIRTIO_F_` or `VIRTIO_NET_F_`.
pub fn name(bit: u8) -> Option<&'static str> {
    TABLE.iter().find(|row| row.0 == bit).map(|row| row.1)
}

/// The feature of this name.
pub fn bit(name: &str) -> Option<u8> {
    TABLE.iter().find(|row| row.1 == name).map(|row| row.0)
}

/// All names, by bit.
pub fn all_names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|row| row.1)
}

/// Why features cannot be used together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeatureError {
    /// No feature is called so.
    UnknownName(String),
    /// The driver accepts what the device does not offer.
    NotOffered(Features),
    /// The driver accepts features that no device can have, in blocks beyond bit 127.
    BeyondAll,
    /// The driver is one of virtio 0.9.
    NoVersion1,
    /// A feature needs another.
    Needs {
        /// The feature.
        feature: &'static str,
        /// One of these is needed.
        one_of: Features,
    },
}

impl fmt::Display for FeatureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownName(name) => write!(f, "there is no feature {name:?}"),
            Self::NotOffered(features) => {
                write!(f, "the driver accepts what is not offered: {features}")
            }
            Self::BeyondAll => write!(f, "the driver accepts features beyond bit 127"),
            Self::NoVersion1 => {
                write!(
                    f,
                    "the driver does not accept VERSION_1; a driver of virtio 1.0 or later is needed"
                )
            }
            Self::Needs { feature, one_of } if one_of.0.count_ones() == 1 => {
                write!(f, "{feature} needs {one_of}, which is not accepted")
            }
            Self::Needs { feature, one_of } => {
                write!(f, "{feature} needs one of {one_of}, and none is accepted")
            }
        }
    }
}

impl std::error::Error for FeatureError {}

/// Whether a device that offers `offered` can work with a driver that accepts `accepted`.
pub fn check(accepted: Features, offered: Features) -> Result<(), FeatureError> {
    if !offered.contains(accepted) {
        return Err(FeatureError::NotOffered(accepted.minus(offered)));
    }
    if !accepted.has(virtio::F_VERSION_1) {
        return Err(FeatureError::NoVersion1);
    }
    match accepted.in_need() {
        Some((_, feature, group)) => {
            Err(FeatureError::Needs { feature, one_of: Features::of(group) })
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn named(names: &[&str]) -> Features {
        Features::from_names(names.iter().copied()).unwrap()
    }

    fn refusal(names: &[&str]) -> String {
        check(named(names), Features(u128::MAX)).unwrap_err().to_string()
    }

    #[test]
    fn the_offer_holds_together() {
        assert_eq!(check(Features::OFFER, Features::OFFER), Ok(()));
        assert_eq!(Features::OFFER.blocks(), 2);
        assert_eq!(Features::OFFER.block(1), 0x81e0_011f);
        assert_eq!(Features::OFFER.block(0), 0x30ef_bbaf);
    }

    #[test]
    fn names_and_bits_lead_to_each_other() {
        for name_of in all_names() {
            assert_eq!(bit(name_of).and_then(name), Some(name_of));
        }
        assert_eq!(bit("MRG_RXBUF"), Some(15));
        assert_eq!(bit("HOST_USO"), Some(56));
        assert_eq!(name(28), Some("INDIRECT_DESC"));
        assert_eq!(name(49), None);
        let bits: Vec<u8> = TABLE.iter().map(|row| row.0).collect();
        assert!(bits.is_sorted_by(|a, b| a < b), "each bit once, in order");
    }

    #[test]
    fn a_driver_of_virtio_0_9_is_told_apart() {
        assert_eq!(check(Features::NONE, Features::OFFER), Err(FeatureError::NoVersion1));
        assert!(refusal(&["MAC"]).starts_with("the driver does not accept VERSION_1"));
    }

    #[test]
    fn what_is_not_offered_is_named() {
        let accepted = named(&["VERSION_1", "SR_IOV"]).union(Features::of(&[49]));
        let error = check(accepted, Features::OFFER).unwrap_err();
        assert_eq!(error.to_string(), "the driver accepts what is not offered: SR_IOV, bit 49");
    }

    #[test]
    fn what_a_feature_needs_is_named() {
        assert_eq!(
            refusal(&["VERSION_1", "GUEST_TSO6"]),
            "GUEST_TSO6 needs GUEST_CSUM, which is not accepted"
        );
        assert_eq!(
            refusal(&["VERSION_1", "HOST_TSO4"]),
            "HOST_TSO4 needs CSUM, which is not accepted"
        );
        assert_eq!(
            refusal(&["VERSION_1", "CSUM", "HOST_ECN"]),
            "HOST_ECN needs one of HOST_TSO4, HOST_TSO6, and none is accepted"
        );
        assert_eq!(
            refusal(&["VERSION_1", "CTRL_VQ", "HASH_TUNNEL"]),
            "HASH_TUNNEL needs one of HASH_REPORT, RSS, and none is accepted"
        );
        assert_eq!(refusal(&["VERSION_1", "MQ"]), "MQ needs CTRL_VQ, which is not accepted");
    }

    #[test]
    fn turning_a_feature_off_takes_along_what_needs_it() {
        let off = |names: &[&str]| Features::OFFER.minus(Features::OFFER.without(named(names)));
        let host = ["CSUM", "HOST_TSO4", "HOST_TSO6", "HOST_ECN", "HOST_USO"];
        assert_eq!(off(&["CSUM"]), named(&host));
        let guest = ["GUEST_CSUM", "GUEST_TSO4", "GUEST_TSO6", "GUEST_ECN"];
        let uso = ["GUEST_USO4", "GUEST_USO6"];
        assert_eq!(off(&["GUEST_CSUM"]), named(&guest).union(named(&uso)));
        for one in uso {
            assert_eq!(off(&[one]), named(&uso), "a TAP takes only both");
        }
        assert_eq!(off(&["HOST_TSO4"]), named(&["HOST_TSO4"]));
        assert_eq!(off(&["MRG_RXBUF", "EVENT_IDX"]), named(&["MRG_RXBUF", "EVENT_IDX"]));
        let all =
            Features::OFFER.union(named(&["HOST_UDP_TUNNEL_GSO", "HOST_UDP_TUNNEL_GSO_CSUM"]));
        let left = all.without(named(&["CSUM"]));
        assert_eq!(left, Features::OFFER.without(named(&["CSUM"])), "needs of needs go too");
    }

    #[test]
    fn an_unknown_name_is_an_error_with_the_name() {
        let error = Features::from_names(["CSUM", "MRG_RXBUFS"]).unwrap_err();
        assert_eq!(error.to_string(), "there is no feature \"MRG_RXBUFS\"");
    }

    #[test]
    fn a_set_reads_as_names() {
        assert_eq!(named(&["MAC", "CSUM"]).to_string(), "CSUM, MAC");
        assert_eq!(Features::NONE.to_string(), "none");
        assert_eq!(named(&["MAC", "CSUM"]).names().collect::<Vec<_>>(), ["CSUM", "MAC"]);
    }

    proptest! {
        #[test]
        fn what_is_left_after_turning_features_off_holds_together(off in any::<u128>()) {
            let all = Features(u128::MAX).without(Features(off));
            prop_assert_eq!(all.in_need(), None);
            prop_assert_eq!(all.intersection(Features(off)), Features::NONE);
        }

        #[test]
        fn blocks_are_the_set_again(bits in any::<u128>()) {
            let set = (0..4).fold(Features::NONE, |set, i| set.with_block(i, Features(bits).block(i)));
            prop_assert_eq!(set, Features(bits));
            prop_assert_eq!(set.block(4), 0);
        }
    }
}
