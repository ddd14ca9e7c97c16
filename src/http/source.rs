//! Who a client is: the [`Source`] that its connection counts for, and the networks of proxies that
//! speak for others.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use axum::http::header::{FORWARDED, HeaderMap, HeaderName};

/// What holds connections together: an IPv4 address, or the 64 bits of an IPv6 address that a network
/// gives away as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Source {
    V4(Ipv4Addr),
    V6(u64),
}

impl From<IpAddr> for Source {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address),
            IpAddr::V6(address) => Self::V6(
                address.octets()[..8].iter().fold(0, |bits, octet| (bits << 8) | u64::from(*octet)),
            ),
        }
    }
}

/// A network in CIDR notation (RFC 4632, RFC 4291 section 2.3): `10.0.0.0/8`, `2001:db8::/32`; an
/// address alone is a network of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    network: IpAddr,
    prefix: u8,
}

/// Why a text is no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// It is neither an address nor an address and a length.
    #[error("write a network like 10.0.0.0/8, 2001:db8::/32 or 127.0.0.1")]
    Malformed,
    /// Bits are set behind the prefix, so that one of the two must be a slip.
    #[error("the network of this length is {network}")]
    HostBits {
        /// What may have been meant.
        network: Cidr,
    },
}

impl Cidr {
    /// Whether `address` lies in the network. An IPv4 address written as IPv6 is that IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        masked(address.to_canonical(), self.prefix) == Some(self.network)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| CidrError::Malformed)?;
        let prefix = match prefix {
            Some(prefix) => prefix.parse().map_err(|_| CidrError::Malformed)?,
            None if address.is_ipv4() => 32,
            None => 128,
        };
        let network = masked(address, prefix).ok_or(CidrError::Malformed)?;
        let cidr = Self { network, prefix };
        if network == address { Ok(cidr) } else { Err(CidrError::HostBits { network: cidr }) }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// The first `prefix` bits of `address`; `None` if it has fewer.
fn masked(address: IpAddr, prefix: u8) -> Option<IpAddr> {
    Some(match address {
        IpAddr::V4(address) => {
            let rest = 32_u32.checked_sub(prefix.into())?;
            let mask = u32::MAX.checked_shl(rest).unwrap_or_default();
            Ipv4Addr::from_bits(address.to_bits() & mask).into()
        }
        IpAddr::V6(address) => {
            let rest = 128_u32.checked_sub(prefix.into())?;
            let mask = u128::MAX.checked_shl(rest).unwrap_or_default();
            Ipv6Addr::from_bits(address.to_bits() & mask).into()
        }
    })
}

/// The address of the client of a request that came from `peer` with these headers.
///
/// Only `trusted` proxies are believed: what the nearest one tells last, and what was told to it only if
/// that is one of them again. Where `Forwarded` (RFC 7239) and `X-Forwarded-For` differ, one of them is
/// the client's own word, and neither is believed.
pub(super) fn client(peer: IpAddr, headers: &HeaderMap, trusted: &[Cidr]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let told = |name: HeaderName, node: fn(&str) -> Option<IpAddr>| {
        let mut client = peer;
        let mut lines = headers.get_all(&name).iter().collect::<Vec<_>>();
        lines.reverse();
        let elements = lines.iter().flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
        for element in elements {
            match node(element.trim()) {
                Some(address) if is_trusted(client) => client = address.to_canonical(),
                _ => break,
            }
        }
        client
    };
    let forwarded = told(FORWARDED, forwarded_for);
    let x_forwarded_for = told(X_FORWARDED_FOR, node);
    match (headers.contains_key(FORWARDED), headers.contains_key(X_FORWARDED_FOR)) {
        (true, false) => forwarded,
        (false, true) => x_forwarded_for,
        (true, true) if forwarded == x_forwarded_for => forwarded,
        _ => peer,
    }
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The address of the `for` parameter of one element of `Forwarded`.
fn forwarded_for(element: &str) -> Option<IpAddr> {
    element.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        name.trim().eq_ignore_ascii_case("for").then(|| node(value.trim().trim_matches('"')))?
    })
}

/// An address, in brackets or not, with a port or without.
fn node(text: &str) -> Option<IpAddr> {
    let bracketed = text.strip_prefix('[').and_then(|text| text.split_once(']'));
    match bracketed {
        Some((address, _port)) => address.parse::<Ipv6Addr>().ok().map(Into::into),
        None => text.parse().ok().or_else(|| {
            let (address, _port) = text.split_once(':')?;
            address.parse::<Ipv4Addr>().ok().map(Into::into)
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_an_ipv6_64() {
        let source = |text| Source::from(address(text));
        assert_eq!(source("192.0.2.1"), source("::ffff:192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("2001:db8:0:1::1"), source("2001:db8:0:1:ffff::2"));
        assert_ne!(source("2001:db8:0:1::1"), source("2001:db8:0:2::1"));
    }

    #[test]
    fn a_network_contains_what_begins_as_it_does() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.1.2.0/23", "10.1.3.255", "10.1.4.0"),
            ("192.0.2.1", "192.0.2.1", "192.0.2.0"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "2001:db8::1"),
            ("2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::1"),
            ("::1", "::1", "::2"),
            ("::/0", "2001:db8::1", "10.0.0.1"),
            ("0.0.0.0/0", "192.0.2.1", "::1"),
        ] {
            let network: Cidr = network.parse().unwrap();
            assert!(network.contains(address(inside)), "{network} {inside}");
            assert!(!network.contains(address(outside)), "{network} {outside}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in ["", "10", "10.0.0.0/", "10.0.0.0/33", "::/129", "10.0.0.0/-1", "a/8", "/8"] {
            assert_eq!(text.parse::<Cidr>(), Err(CidrError::Malformed), "{text:?}");
        }
        let slip = "10.1.0.0/8".parse::<Cidr>().unwrap_err();
        assert_eq!(slip.to_string(), "the network of this length is 10.0.0.0/8");
    }

    fn told(peer: &str, lines: &[(&'static str, &str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        let trusted = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap());
        client(address(peer), &headers, &trusted).to_string()
    }

    #[test]
    fn a_trusted_proxy_is_believed() {
        const XFF: &str = "x-forwarded-for";
        for (lines, client) in [
            (&[][..], "10.0.0.1"),
            (&[(XFF, "192.0.2.1")], "192.0.2.1"),
            (&[(XFF, "203.0.113.9, 192.0.2.1")], "192.0.2.1"),
            (&[(XFF, "203.0.113.9"), (XFF, "192.0.2.1:4711")], "192.0.2.1"),
            (&[(XFF, "203.0.113.9, 192.0.2.1, 10.0.0.2,10.0.0.3")], "192.0.2.1"),
            (&[(XFF, "192.0.2.1, fd00::1")], "192.0.2.1"),
            (&[(XFF, "[2001:db8::1]:443")], "2001:db8::1"),
            (&[(XFF, "::ffff:192.0.2.1")], "192.0.2.1"),
            (&[(XFF, "192.0.2.1, unknown")], "10.0.0.1"),
            (&[(XFF, "192.0.2.1, 10.0.0.2, nonsense, 10.0.0.3")], "10.0.0.3"),
            (&[("forwarded", "for=192.0.2.1;proto=http;by=10.0.0.1")], "192.0.2.1"),
            (
                &[("forwarded", "For=203.0.113.9, proto=http; For=\"[2001:db8::1]:99\"")],
                "2001:db8::1",
            ),
            (&[("forwarded", "for=_hidden")], "10.0.0.1"),
            (&[("forwarded", "for=192.0.2.1"), (XFF, "192.0.2.1")], "192.0.2.1"),
            (&[("forwarded", "for=203.0.113.9"), (XFF, "192.0.2.1")], "10.0.0.1"),
        ] {
            assert_eq!(told("10.0.0.1", lines), client, "{lines:?}");
        }
    }

    #[test]
    fn nobody_else_is_believed() {
        for name in ["x-forwarded-for", "forwarded"] {
            let value = if name == "forwarded" { "for=203.0.113.9" } else { "203.0.113.9" };
            assert_eq!(told("192.0.2.1", &[(name, value)]), "192.0.2.1");
            assert_eq!(told("10.0.0.1", &[(name, value)]), "203.0.113.9", "the control");
        }
    }
}
