//! `[p]` Which protocol a client and we speak, from its request's headers.
//!
//! Not for: what is said afterwards.

use http::{HeaderMap, StatusCode, header};

use super::status::Version;

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// exec and attach.
    Command,
    /// port-forward.
    Forward,
}

/// What both understand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Agreed {
    /// SPDY/3.1, with this protocol above it.
    Spdy(&'static str),
    /// A WebSocket with channels; the subprotocol, or none.
    Channels(Option<&'static str>),
    /// A WebSocket that carries a SPDY/3.1 connection.
    Tunnel(&'static str),
}

impl Agreed {
    /// How the end of a command is told.
    pub(crate) fn version(self) -> Version {
        let name = match self {
            Agreed::Spdy(name) | Agreed::Tunnel(name) => name,
            Agreed::Channels(name) => name.unwrap_or_default(),
        };
        if name.starts_with("v4.") || name.starts_with("v5.") { Version::Status } else { Version::Text }
    }
}

impl Agreed {
    /// Whether the client understands a stream that has nothing but an error.
    pub(crate) fn tells_refusals(self) -> bool {
        matches!(self, Agreed::Channels(Some("v5.channel.k8s.io")))
    }
}

/// Best first.
const SPDY_COMMANDS: [&str; 4] =
    ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];
const CHANNELS: [&str; 5] = [
    "v5.channel.k8s.io",
    "v4.channel.k8s.io",
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
];
const FORWARD: [&str; 1] = ["portforward.k8s.io"];
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
/// The tunnel, and the older form with two channels for each port.
const FORWARD_SOCKETS: [&str; 3] = [TUNNEL, "v4.channel.k8s.io", "v4.base64.channel.k8s.io"];
/// Channels are numbered by one byte.
const MAX_PORTS: usize = 127;
/// Where SPDY clients list their protocols, and we ours.
pub(crate) const PROTOCOL: &str = "x-stream-protocol-version";
/// Ours, when there is none in common.
pub(crate) const ACCEPTED: &str = "x-accepted-stream-protocol-versions";

/// A request that cannot be served as a stream, in upstream's words.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) text: String,
    /// For [`ACCEPTED`].
    pub(crate) accepted: &'static [&'static str],
}

/// Settles the protocol.
pub(crate) fn agree(headers: &HeaderMap, purpose: Purpose) -> Result<Agreed, Refusal> {
    let refusal = |status, text| Refusal { status, text, accepted: &[] };
    let upgrade = words(headers, header::UPGRADE.as_str());
    let wants = |protocol: &str| upgrade.iter().any(|word| word.eq_ignore_ascii_case(protocol));
    let connection = words(headers, header::CONNECTION.as_str());
    if !connection.iter().any(|word| word.eq_ignore_ascii_case("upgrade")) {
        let text = "unable to upgrade: missing upgrade headers in request".to_owned();
        return Err(refusal(StatusCode::BAD_REQUEST, text));
    }
    if wants("websocket") {
        let offered = words(headers, header::SEC_WEBSOCKET_PROTOCOL.as_str());
        let ours: &'static [&'static str] = match purpose {
            Purpose::Command => &CHANNELS,
            Purpose::Forward => &FORWARD_SOCKETS,
        };
        return match common(&offered, ours) {
            Some(TUNNEL) => Ok(Agreed::Tunnel(TUNNEL)),
            Some(name) => Ok(Agreed::Channels(Some(name))),
            None if offered.is_empty() => Ok(Agreed::Channels(None)),
            None => Err(nothing_in_common(&offered, ours)),
        };
    }
    if !wants("SPDY/3.1") {
        let text = format!("unable to upgrade: missing upgrade headers in request: {upgrade:?}");
        return Err(refusal(StatusCode::BAD_REQUEST, text));
    }
    let offered = words(headers, PROTOCOL);
    let ours: &'static [&'static str] = match purpose {
        Purpose::Command => &SPDY_COMMANDS,
        Purpose::Forward => &FORWARD,
    };
    if offered.is_empty() {
        let text = format!("unable to upgrade: {PROTOCOL} header is required");
        return Err(refusal(StatusCode::BAD_REQUEST, text));
    }
    common(&offered, ours).map(Agreed::Spdy).ok_or_else(|| nothing_in_common(&offered, ours))
}

/// The ports that a WebSocket with channels is for, in upstream's words where they cannot be. Each may be a list.
pub(crate) fn ports(said: &[String]) -> Result<Vec<u16>, String> {
    if said.is_empty() {
        return Err("query parameter \"port\" is required".to_owned());
    }
    let one = |text: &str| match text.parse::<u16>() {
        _ if text.is_empty() => Err("query parameter \"port\" cannot be empty".to_owned()),
        Ok(0) => Err(format!("port {text:?} must be > 0")),
        Ok(port) => Ok(port),
        Err(error) => Err(format!("unable to parse {text:?} as a port: {error}")),
    };
    let ports: Vec<u16> = said.iter().flat_map(|list| list.split(',')).map(one).collect::<Result<_, _>>()?;
    match ports.len() {
        0..=MAX_PORTS => Ok(ports),
        many => Err(format!("{many} ports are more than a WebSocket has channels for")),
    }
}

/// The first of the client's that is ours too.
fn common(offered: &[String], ours: &'static [&'static str]) -> Option<&'static str> {
    offered.iter().find_map(|name| ours.iter().find(|known| *known == name).copied())
}

fn nothing_in_common(offered: &[String], ours: &'static [&'static str]) -> Refusal {
    let text = format!(
        "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {ours:?}"
    );
    Refusal { status: StatusCode::FORBIDDEN, text, accepted: ours }
}

/// All values of a header, which may be repeated or separated by commas.
fn words(headers: &HeaderMap, name: &str) -> Vec<String> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(|word| word.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(purpose: Purpose, headers: &[(&'static str, &str)], expected: &Expect) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let text = match agree(&map, purpose) {
            Ok(agreed) => format!("{agreed:?} {:?}", agreed.version()),
            Err(Refusal { status, text, .. }) => format!("{} {text}", status.as_u16()),
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn kubectl_and_the_api_server_over_spdy() {
        let spdy = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
        let with = |protocols: &'static [&'static str]| {
            spdy.iter().copied().chain(protocols.iter().map(|name| (PROTOCOL, *name))).collect::<Vec<_>>()
        };
        check(
            Purpose::Command,
            &with(&["v5.channel.k8s.io", "v4.channel.k8s.io", "v3.channel.k8s.io"]),
            &expect![[r#"Spdy("v4.channel.k8s.io") Status"#]],
        );
        check(
            Purpose::Command,
            &with(&["v2.channel.k8s.io,channel.k8s.io"]),
            &expect![[r#"Spdy("v2.channel.k8s.io") Text"#]],
        );
        check(
            Purpose::Forward,
            &with(&["portforward.k8s.io"]),
            &expect![[r#"Spdy("portforward.k8s.io") Text"#]],
        );
        check(
            Purpose::Command,
            &with(&[]),
            &expect!["400 unable to upgrade: x-stream-protocol-version header is required"],
        );
        check(
            Purpose::Forward,
            &with(&["v9"]),
            &expect![[
                r#"403 unable to upgrade: unable to negotiate protocol: client supports ["v9"], server accepts ["portforward.k8s.io"]"#
            ]],
        );
        check(Purpose::Command, &[], &expect!["400 unable to upgrade: missing upgrade headers in request"]);
    }

    #[test]
    fn web_sockets_old_and_new() {
        let with = |protocols: &'static [&'static str]| {
            let upgrade = [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
            let offered = protocols.iter().map(|name| ("sec-websocket-protocol", *name));
            upgrade.into_iter().chain(offered).collect::<Vec<_>>()
        };
        check(
            Purpose::Command,
            &with(&["v5.channel.k8s.io, v4.channel.k8s.io"]),
            &expect![[r#"Channels(Some("v5.channel.k8s.io")) Status"#]],
        );
        check(Purpose::Command, &with(&[]), &expect!["Channels(None) Text"]);
        check(
            Purpose::Forward,
            &with(&["SPDY/3.1+portforward.k8s.io"]),
            &expect![[r#"Tunnel("SPDY/3.1+portforward.k8s.io") Text"#]],
        );
        check(
            Purpose::Forward,
            &with(&["v4.base64.channel.k8s.io"]),
            &expect![[r#"Channels(Some("v4.base64.channel.k8s.io")) Status"#]],
        );
        check(Purpose::Forward, &with(&[]), &expect!["Channels(None) Text"]);
        check(
            Purpose::Forward,
            &with(&["v5.channel.k8s.io"]),
            &expect![[
                r#"403 unable to upgrade: unable to negotiate protocol: client supports ["v5.channel.k8s.io"], server accepts ["SPDY/3.1+portforward.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io"]"#
            ]],
        );
        check(
            Purpose::Command,
            &with(&["chat"]),
            &expect![[
                r#"403 unable to upgrade: unable to negotiate protocol: client supports ["chat"], server accepts ["v5.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io"]"#
            ]],
        );
    }

    #[test]
    fn ports_are_numbers_in_lists() {
        let check = |said: &[&str], expected: Result<&[u16], &str>| {
            let said: Vec<String> = said.iter().map(|&text| text.to_owned()).collect();
            let expected = expected.map(<[u16]>::to_vec).map_err(str::to_owned);
            assert_eq!(ports(&said), expected, "{said:?}");
        };
        check(&["80", "81,443"], Ok(&[80, 81, 443]));
        check(&[], Err("query parameter \"port\" is required"));
        check(&["80,"], Err("query parameter \"port\" cannot be empty"));
        check(&["0"], Err("port \"0\" must be > 0"));
        check(&["65536"], Err("unable to parse \"65536\" as a port: number too large to fit in target type"));
        check(&["1"; 128], Err("128 ports are more than a WebSocket has channels for"));
    }
}
