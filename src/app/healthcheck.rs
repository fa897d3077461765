//! `espalier healthcheck`: whether the server on this machine is alive, for
//! `HEALTHCHECK` in a container that has neither shell nor curl.
//!
//! One plain HTTP/1.1 exchange over a socket: no proxy of the environment comes
//! between, and nothing is started that could outlast the deadline.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// Why the server does not count as alive.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// No URL of a server.
    #[error("--url is `{0}` and must look like http://127.0.0.1:8080")]
    Url(String),
    /// Nobody answers.
    #[error("no healthy server at {address}: {cause}")]
    Silent {
        /// Where was asked.
        address: String,
        /// What happened.
        cause: String,
    },
}

/// The address of a server that listens on `host`, seen from the same machine.
#[must_use]
pub(super) fn local(host: IpAddr, port: u16) -> String {
    let host = match host {
        IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        host => host,
    };
    SocketAddr::new(host, port).to_string()
}

/// The address in a URL.
///
/// # Errors
/// When it is no `http://host:port`.
pub(super) fn of_url(url: &str) -> Result<String, HealthError> {
    let rest = url.strip_prefix("http://").ok_or_else(|| HealthError::Url(url.to_owned()))?;
    let authority = rest.split('/').next().unwrap_or_default();
    let port = authority.rsplit_once(':').map(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
    match port {
        Some(true) => Ok(authority.to_owned()),
        None if !authority.is_empty() => Ok(format!("{authority}:80")),
        _ => Err(HealthError::Url(url.to_owned())),
    }
}

/// Asks `/health` at `address` and is content with 200 alone.
///
/// # Errors
/// When the answer is another, or does not come in time.
pub(super) fn ask(address: &str) -> Result<(), HealthError> {
    let silent = |cause: String| HealthError::Silent { address: address.to_owned(), cause };
    let failed = |error: std::io::Error| silent(error.to_string());
    let begun = Instant::now();
    let target = address.to_socket_addrs().map_err(failed)?.next();
    let target = target.ok_or_else(|| silent("the name has no address".to_owned()))?;
    let mut stream = TcpStream::connect_timeout(&target, PATIENCE).map_err(failed)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
    let request = format!("GET /health HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut head = Vec::new();
    let mut chunk = [0; 256];
    while !head.contains(&b'\n') && head.len() < 1024 {
        let left = PATIENCE.saturating_sub(begun.elapsed());
        if left.is_zero() {
            return Err(silent(format!("no answer within {} s", PATIENCE.as_secs())));
        }
        stream.set_read_timeout(Some(left)).map_err(failed)?;
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(n) => head.extend_from_slice(&chunk[..n]),
            Err(error)
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
            {
                return Err(silent(format!("no answer within {} s", PATIENCE.as_secs())));
            }
            Err(error) => return Err(failed(error)),
        }
    }
    let line = String::from_utf8_lossy(&head);
    let line = line.lines().next().unwrap_or_default();
    let mut words = line.split(' ');
    match (words.next(), words.next()) {
        (Some(version), Some("200")) if version.starts_with("HTTP/1.") => Ok(()),
        (Some(version), Some(status)) if version.starts_with("HTTP/1.") => {
            Err(silent(format!("/health answers {status}")))
        }
        _ => Err(silent("what answers there does not speak HTTP".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_listens_everywhere_is_reached_through_loopback() {
        for (host, address) in [("0.0.0.0", "127.0.0.1:80"), ("::", "[::1]:80"), ("10.1.2.3", "10.1.2.3:80")]
        {
            assert_eq!(local(host.parse().expect("an address"), 80), address);
        }
    }

    #[test]
    fn urls_are_read_and_other_texts_refused() {
        for (url, address) in [
            ("http://127.0.0.1:8080", "127.0.0.1:8080"),
            ("http://localhost:81/v1", "localhost:81"),
            ("http://pod", "pod:80"),
        ] {
            assert_eq!(of_url(url).expect(url), address);
        }
        for url in ["https://a:1", "127.0.0.1:80", "http://", "http://a:many", "http://:80"] {
            assert!(matches!(of_url(url), Err(HealthError::Url(_))), "{url}");
        }
    }
}
