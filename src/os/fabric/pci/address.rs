//! Where a PCI function is, and which one a link is to have, as people and sysfs write it.

use std::fmt;
use std::str::FromStr;

/// A PCI function's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The domain; some host bridges have numbers beyond 16 bits.
    pub domain: u32,
    /// The bus.
    pub bus: u8,
    /// The device on it, 0 to 31.
    pub device: u8,
    /// The function in it, 0 to 7.
    pub function: u8,
}

/// What is no function's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoAddress;

impl fmt::Display for NoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("write DOMAIN:BUS:DEV.FN, as 0000:00:03.0, or BUS:DEV.FN in domain 0")
    }
}

impl FromStr for Address {
    type Err = NoAddress;

    /// `DOMAIN:BUS:DEV.FN`, or `BUS:DEV.FN` for domain 0; all hexadecimal.
    fn from_str(text: &str) -> Result<Self, NoAddress> {
        let (rest, function) = text.rsplit_once('.').ok_or(NoAddress)?;
        let (rest, device) = rest.rsplit_once(':').ok_or(NoAddress)?;
        let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0", rest));
        let hex = |text: &str, digits: usize, most: u32| {
            let right = (1..=digits).contains(&text.len());
            let right = right && text.bytes().all(|octet| octet.is_ascii_hexdigit());
            let number = right.then(|| u32::from_str_radix(text, 16).ok()).flatten();
            number.filter(|number| *number <= most).ok_or(NoAddress)
        };
        let octet = |text, digits, most| hex(text, digits, most)?.try_into().map_err(|_| NoAddress);
        Ok(Self {
            domain: hex(domain, 8, u32::MAX)?,
            bus: octet(bus, 2, 0xff)?,
            device: octet(device, 2, 31)?,
            function: octet(function, 1, 7)?,
        })
    }
}

impl fmt::Display for Address {
    /// As sysfs has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { domain, bus, device, function } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function:x}")
    }
}

/// Which function a link is to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Which {
    /// The one at this address.
    At(Address),
    /// The lowest one of a known kind that no other link has.
    Auto,
}

/// By what of the kernel's a function is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// VFIO, with interrupts.
    Vfio,
    /// Files of sysfs, by which memory can be mapped. This end polls.
    Sysfs,
}

/// What a link wants of the PCI bus: `WHICH`, `WHICH?vfio` or `WHICH?sysfs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    /// Which function.
    pub which: Which,
    /// By what; `None`: by VFIO if the function has an IOMMU group, else by sysfs.
    pub mode: Option<Mode>,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vfio => "vfio",
            Self::Sysfs => "sysfs",
        })
    }
}

impl fmt::Display for Which {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(address) => address.fmt(f),
            Self::Auto => f.write_str("auto"),
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.which.fmt(f)?;
        self.mode.map_or(Ok(()), |mode| write!(f, "?{mode}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_with_or_without_its_domain_and_written_as_sysfs_has_it() {
        for (text, written) in [
            ("0000:00:03.0", "0000:00:03.0"),
            ("03:1f.7", "0000:03:1f.7"),
            ("0:3:2.1", "0000:03:02.1"),
            ("10000:e1:00.0", "10000:e1:00.0"),
            ("ABCD:eF:1A.5", "abcd:ef:1a.5"),
        ] {
            assert_eq!(text.parse::<Address>().map(|a| a.to_string()).as_deref(), Ok(written));
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            ".",
            "3.0",
            ":3.0",
            "0:3",
            "00:20.0",
            "00:03.8",
            "100:03.0",
            "+0:03.0",
            "00:03.",
            "0:0:0:3.0",
            "123456789:00:03.0",
            "00:003.0",
            "00:03.00",
            "../03:00.0",
            "00:03.0 ",
        ] {
            assert_eq!(text.parse::<Address>(), Err(NoAddress), "{text}");
        }
    }
}
