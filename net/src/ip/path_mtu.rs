//! What is known of the paths to destinations: the largest packet that passes (RFC 1191, RFC 8201).

use core::net::IpAddr;

use hashbrown::HashMap;

/// Destinations remembered; the one that is forgotten soonest gives way.
const MAX_ENTRIES: usize = 4096;
/// How long a smaller size is believed before a larger one is tried: Linux's mtu_expires, RFC 8201's ten
/// minutes.
const LIFETIME_MS: u64 = 600_000;
/// Linux's ip_rt_min_pmtu: nobody makes us send smaller IPv4 packets.
const LEAST_V4: u16 = 552;
/// RFC 8200 section 5.
const LEAST_V6: u16 = 1280;

/// Sizes by destination.
#[derive(Default)]
pub(crate) struct PathMtus {
    known: HashMap<IpAddr, (u16, u64)>,
}

impl PathMtus {
    /// The largest packet for `to`, at most `link`.
    #[inline]
    pub(crate) fn get(&self, to: IpAddr, link: usize) -> usize {
        if self.known.is_empty() {
            return link;
        }
        self.known.get(&to).map_or(link, |(mtu, _)| link.min(usize::from(*mtu)))
    }

    /// A router says that no more than `mtu` bytes pass (0: it does not say how many). Whether that is news;
    /// then what it is now.
    pub(crate) fn shrink(&mut self, to: IpAddr, mtu: u16, link: usize, now_ms: u64) -> Option<u16> {
        let least = if to.is_ipv6() { LEAST_V6 } else { LEAST_V4 };
        let mtu = match mtu {
            0 if to.is_ipv4() => 1280.min(self.get(to, link) as u16 / 2).max(least),
            mtu => mtu.max(least),
        };
        if usize::from(mtu) >= self.get(to, link) {
            return None;
        }
        if self.known.len() >= MAX_ENTRIES
            && let Some(soonest) = self.known.iter().min_by_key(|(_, entry)| entry.1).map(|(to, _)| *to)
        {
            self.known.remove(&soonest);
        }
        self.known.insert(to, (mtu, now_ms + LIFETIME_MS));
        Some(mtu)
    }

    /// Forgets what is old.
    pub(crate) fn expire(&mut self, now_ms: u64) {
        if !self.known.is_empty() {
            self.known.retain(|_, entry| now_ms < entry.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shrinks_within_bounds_and_forgets() {
        let mut paths = PathMtus::default();
        let (v4, v6): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "2001:db8::1".parse().unwrap());
        assert_eq!(paths.shrink(v4, 1400, 1500, 0), Some(1400));
        assert_eq!(paths.shrink(v4, 1450, 1500, 0), None, "never larger by a message");
        assert_eq!(paths.shrink(v4, 68, 1500, 0), Some(552));
        assert_eq!(paths.shrink(v6, 600, 1500, 0), Some(1280));
        assert_eq!((paths.get(v4, 1500), paths.get(v6, 1500)), (552, 1280));
        paths.expire(600_000);
        assert_eq!(paths.get(v4, 1500), 1500);
    }
}
