//! `[p]` Which name servers are asked for names that are not the cluster's.

use std::net::{IpAddr, SocketAddr};

/// As many as a resolver of a C library takes.
const MOST: usize = 3;

/// The name servers of a `resolv.conf`, in order, without `own`: a question must not come back to us.
#[must_use]
pub fn of_resolv_conf(text: &str, own: &[IpAddr]) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        // A zone index (`fe80::1%eth0`) is of no use without the interface's number.
        let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
        let server = SocketAddr::new(address, 53);
        if !own.contains(&address) && !servers.contains(&server) && servers.len() < MOST {
            servers.push(server);
        }
    }
    servers
}

/// `192.0.2.1`, `192.0.2.1:5353`, `[2001:db8::1]:5353`.
///
/// # Errors
/// When it is none of these.
pub fn parse(text: &str) -> Result<SocketAddr, String> {
    let address = text.parse::<IpAddr>().map(|address| SocketAddr::new(address, 53));
    address.or_else(|_| text.parse()).map_err(|_| "must be an IP address, or one with a port".to_owned())
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn servers_of_the_file_without_ourselves() {
        let text = "# nameserver 192.0.2.9\nsearch a b\nnameserver 10.43.0.10\nnameserver 192.0.2.1\n\
                    nameserver\nnameserver x\nnameserver 192.0.2.1\nnameserver 2001:db8::1\n\
                    nameserver fe80::1%eth0\nnameserver 127.0.0.53\nnameserver 192.0.2.4\noptions ndots:5\n";
        let own = [IpAddr::from([10, 43, 0, 10])];
        expect!["[192.0.2.1:53, [2001:db8::1]:53, 127.0.0.53:53]"]
            .assert_eq(&format!("{:?}", of_resolv_conf(text, &own)));
        assert_eq!(of_resolv_conf("", &own), []);
    }

    #[test]
    fn a_server_may_have_a_port() {
        let said: Vec<_> =
            ["192.0.2.1", "192.0.2.1:5353", "2001:db8::1", "[2001:db8::1]:54", "a.example", "1:"]
                .iter()
                .map(|text| parse(text).map_or("-".to_owned(), |server| server.to_string()))
                .collect();
        expect!["192.0.2.1:53 192.0.2.1:5353 [2001:db8::1]:53 [2001:db8::1]:54 - -"]
            .assert_eq(&said.join(" "));
    }
}
