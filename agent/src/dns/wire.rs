//! `[p]` Bytes to questions, and answers to bytes.
//!
//! What arrives here was written by anybody: whatever it is, it is a question, a refusal, or nothing, and never more
//! than its own length in memory. Not for: sockets, or what the answer is.

use std::net::SocketAddr;

use hickory_proto::{
    op::{Message, MessageType, Metadata, OpCode, Query, ResponseCode, emit_message_parts},
    rr::{DNSClass, Record, RecordType},
    serialize::binary::BinEncoder,
};

/// What fits into a datagram of a client that says nothing about it.
const PLAIN_PAYLOAD: u16 = 512;
/// Our largest datagram: it passes every path without fragments (flag day 2020).
pub const PAYLOAD: u16 = 1232;
/// The OPT record without options.
const OPT_LEN: u16 = 11;
const HEADER_LEN: usize = 12;

/// Which way a question came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A stream.
    Tcp,
}

/// A question that can be answered.
#[derive(Clone, Debug)]
pub struct Request {
    metadata: Metadata,
    /// The question, with the letters as they came.
    pub query: Query,
    /// `None`: the client knows nothing of EDNS.
    edns: Option<ClientEdns>,
}

#[derive(Clone, Copy, Debug)]
struct ClientEdns {
    payload: u16,
    dnssec_ok: bool,
}

/// What a packet is.
#[derive(Debug)]
pub enum Incoming {
    /// A question.
    Question(Request),
    /// Nothing that is answered with more than this.
    Refused(ResponseCode, Vec<u8>),
    /// Nothing that is answered: it is itself an answer, or too short to say which one it would be.
    Noise,
}

/// What is answered.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// How it went.
    pub code: ResponseCode,
    /// From whom the name is.
    pub authoritative: bool,
    /// Whoever was asked vouches for it.
    pub authentic: bool,
    /// Answers.
    pub answers: Vec<Record>,
    /// Authorities.
    pub authorities: Vec<Record>,
    /// Additional records, without OPT.
    pub additionals: Vec<Record>,
}

impl Reply {
    /// A code alone.
    #[must_use]
    pub fn code(code: ResponseCode) -> Reply {
        Reply { code, ..Reply::default() }
    }
}

/// Reads a packet of a client.
#[must_use]
pub fn read(packet: &[u8]) -> Incoming {
    let Some(&[id_high, id_low, flags, ..]) = packet.get(..HEADER_LEN) else { return Incoming::Noise };
    if flags & 0x80 != 0 {
        return Incoming::Noise;
    }
    let id = u16::from_be_bytes([id_high, id_low]);
    let op_code = OpCode::from_u8(flags >> 3 & 0x0f);
    let bare = |code| {
        let mut metadata = Metadata::new(id, MessageType::Response, op_code);
        metadata.recursion_desired = flags & 1 != 0;
        metadata.recursion_available = true;
        metadata.response_code = code;
        Incoming::Refused(code, encode(metadata, None, &Reply::default(), None, usize::from(PLAIN_PAYLOAD)))
    };
    if op_code != OpCode::Query {
        return bare(ResponseCode::NotImp);
    }
    let Ok(mut message) = Message::from_vec(packet) else { return bare(ResponseCode::FormErr) };
    let (Some(query), true) = (message.queries.pop(), message.queries.is_empty()) else {
        return bare(ResponseCode::FormErr);
    };
    let edns = message.edns.as_ref();
    let version = edns.map_or(0, |edns| edns.version());
    let edns = edns.map(|edns| ClientEdns { payload: edns.max_payload(), dnssec_ok: edns.flags().dnssec_ok });
    let request = Request { metadata: message.metadata, query, edns };
    let transfer = matches!(request.query.query_type(), RecordType::AXFR | RecordType::IXFR);
    let code = if version != 0 {
        ResponseCode::BADVERS
    } else if request.query.query_class() != DNSClass::IN || transfer {
        ResponseCode::Refused
    } else {
        return Incoming::Question(request);
    };
    Incoming::Refused(code, request.write(&Reply::code(code), Transport::Udp))
}

impl Request {
    /// Whether the client wants signatures with the answer.
    #[must_use]
    pub fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// Whether the client checks signatures itself.
    #[must_use]
    pub fn checking_disabled(&self) -> bool {
        self.metadata.checking_disabled
    }

    /// The most bytes of an answer.
    #[must_use]
    pub fn limit(&self, transport: Transport) -> usize {
        usize::from(match transport {
            Transport::Tcp => u16::MAX,
            Transport::Udp => {
                self.edns.map_or(PLAIN_PAYLOAD, |edns| edns.payload.clamp(PLAIN_PAYLOAD, PAYLOAD))
            }
        })
    }

    /// How many records can be in an answer at most: a name that is a pointer, and four bytes.
    #[must_use]
    pub fn most_records(&self, transport: Transport) -> usize {
        self.limit(transport) / 16 + 1
    }

    /// The answer in bytes. What does not fit is left out, and the client told to come back by TCP.
    #[must_use]
    pub fn write(&self, reply: &Reply, transport: Transport) -> Vec<u8> {
        let mut metadata = Metadata::response_from_request(&self.metadata);
        metadata.recursion_available = true;
        metadata.authoritative = reply.authoritative;
        // Whoever does not know the bit is not told (RFC 6840, 5.8).
        metadata.authentic_data = reply.authentic && (self.dnssec_ok() || self.metadata.authentic_data);
        metadata.response_code = reply.code;
        encode(metadata, Some(&self.query), reply, self.edns, self.limit(transport))
    }
}

fn encode(
    metadata: Metadata,
    query: Option<&Query>,
    reply: &Reply,
    edns: Option<ClientEdns>,
    limit: usize,
) -> Vec<u8> {
    let limit = u16::try_from(limit).unwrap_or(u16::MAX);
    let room = limit.saturating_sub(if edns.is_some() { OPT_LEN } else { 0 });
    let mut bytes = Vec::with_capacity(256);
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_max_size(room);
    let written = emit_message_parts(
        &metadata,
        &mut query.into_iter(),
        &mut reply.answers.iter(),
        &mut reply.authorities.iter(),
        &mut reply.additionals.iter(),
        None,
        None,
        &mut encoder,
    );
    let end = encoder.offset();
    bytes.truncate(end);
    match written {
        Ok(header) => {
            let all = usize::from(header.counts.answers) == reply.answers.len()
                && usize::from(header.counts.authorities) == reply.authorities.len();
            // What is missing of a courtesy is not missed.
            if all
                && !metadata.truncation
                && let Some(flags) = bytes.get_mut(2)
            {
                *flags &= !0x02;
            }
        }
        // A record that cannot be written: the client hears that much.
        Err(_) => {
            bytes.truncate(HEADER_LEN);
            bytes.resize(HEADER_LEN, 0);
            let [high, low] = metadata.id.to_be_bytes();
            bytes.copy_from_slice(&[high, low, 0x80, 0x82, 0, 0, 0, 0, 0, 0, 0, 0]);
            return bytes;
        }
    }
    if let Some(edns) = edns {
        put_opt(&mut bytes, metadata.response_code, edns.dnssec_ok);
    }
    bytes
}

/// Appends the OPT record, whose place was kept free.
fn put_opt(bytes: &mut Vec<u8>, code: ResponseCode, dnssec_ok: bool) {
    let [payload_high, payload_low] = PAYLOAD.to_be_bytes();
    let flags = if dnssec_ok { 0x80 } else { 0 };
    bytes.extend([0, 0, 41, payload_high, payload_low, code.high(), 0, flags, 0, 0, 0]);
    if let Some(count) = bytes.get_mut(10..12)
        && let Ok(old) = <[u8; 2]>::try_from(&*count)
    {
        count.copy_from_slice(&(u16::from_be_bytes(old).saturating_add(1)).to_be_bytes());
    }
}

/// A question for a name server of somebody else.
#[must_use]
pub fn question(id: u16, query: &Query, dnssec_ok: bool, checking_disabled: bool) -> Vec<u8> {
    let mut metadata = Metadata::new(id, MessageType::Query, OpCode::Query);
    metadata.recursion_desired = true;
    metadata.checking_disabled = checking_disabled;
    let edns = ClientEdns { payload: PAYLOAD, dnssec_ok };
    encode(metadata, Some(query), &Reply::default(), Some(edns), usize::from(PLAIN_PAYLOAD))
}

/// What a name server says to a question of ours; `None` where it is no answer to this one.
#[must_use]
pub fn answer(packet: &[u8], id: u16, query: &Query) -> Option<Message> {
    if packet.get(..2)? != id.to_be_bytes() {
        return None;
    }
    let message = Message::from_vec(packet).ok()?;
    let ours = message.metadata.message_type == MessageType::Response
        && message.metadata.op_code == OpCode::Query
        && message.queries.as_slice() == std::slice::from_ref(query);
    ours.then_some(message)
}

/// For the log: `10.0.0.1:4711 A web.default.svc.cluster.local. NoError 1 30µs`.
#[must_use]
pub fn sentence(client: SocketAddr, query: &Query, reply: &Reply) -> String {
    format!("{client} {} {} {:?} {}", query.query_type(), query.name(), reply.code, reply.answers.len())
}
