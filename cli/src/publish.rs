//! `-p [ADDR:]HOST:GUEST[/udp|/tcp]`, as `docker run` takes it. An IPv6 address stands in brackets.

use netserver::Publish;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Reads one `-p` value.
pub(crate) fn parse(text: &str) -> Result<Publish, String> {
    let (ports, udp) = match text.rsplit_once('/') {
        None => (text, false),
        Some((ports, "tcp")) => (ports, false),
        Some((ports, "udp")) => (ports, true),
        Some((_, other)) => return Err(format!("'{other}' is neither tcp nor udp")),
    };
    let (rest, guest) = ports.rsplit_once(':').ok_or("give HOST:GUEST, for example 8080:80")?;
    let (address, host) = match rest.rsplit_once(':') {
        // Which takes IPv4 as well.
        None => (IpAddr::V6(Ipv6Addr::UNSPECIFIED), rest),
        Some((address, host)) => (parse_address(address)?, host),
    };
    let host = SocketAddr::new(address, parse_port(host, true)?);
    Ok(Publish { host, guest_port: parse_port(guest, false)?, udp })
}

fn parse_address(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    bare.parse().map_err(|_| format!("'{text}' is no IP address"))
}

/// Host port 0 lets the host choose; a guest port must be named.
fn parse_port(text: &str, zero_allowed: bool) -> Result<u16, String> {
    match text.parse() {
        Ok(0) if !zero_allowed => Err("port 0 cannot be published: name the guest's port".into()),
        Ok(port) => Ok(port),
        Err(_) => Err(format!("'{text}' is no port (0 to 65535)")),
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn reads_dockers_forms() {
        let plain = parse("8080:80").unwrap();
        assert_eq!((plain.host.to_string().as_str(), plain.guest_port, plain.udp), ("[::]:8080", 80, false));
        assert_eq!(parse("127.0.0.1:8080:80/tcp").unwrap().host.to_string(), "127.0.0.1:8080");
        assert_eq!(parse("[::1]:53:5353/udp").unwrap().host.to_string(), "[::1]:53");
        assert!(parse("53:53/udp").unwrap().udp);
    }

    #[test]
    fn refuses_the_malformed() {
        for text in ["", "80", "a:80", "80:b", "80:0", "70000:80", "80:80/sctp", "1.2.3:80:80", ":80", "80:"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
