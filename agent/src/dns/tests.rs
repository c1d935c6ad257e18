//! The name server with real sockets: clients on one side, name servers of others (small ones, made here) on the other.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, CNAME, SOA, TXT},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
    time::{advance, pause, resume, timeout},
};

use super::*;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

/// A name server of somebody else.
#[derive(Default)]
struct Other {
    records: Mutex<BTreeMap<String, Vec<RData>>>,
    asked: AtomicUsize,
    asked_tcp: AtomicUsize,
    silent: AtomicBool,
    refuses: AtomicBool,
    /// Says first what nobody asked for.
    noisy: AtomicBool,
}

impl Other {
    fn say(&self, query: &[u8], udp: bool) -> Option<Message> {
        let asked = Message::from_vec(query).unwrap();
        let query = asked.queries[0].clone();
        self.asked.fetch_add(1, Ordering::SeqCst);
        if self.silent.load(Ordering::SeqCst) {
            return None;
        }
        let mut answer = Message::response(asked.metadata.id, OpCode::Query);
        let data = self.records.lock().unwrap().get(&query.name().to_ascii().to_lowercase()).cloned();
        if self.refuses.load(Ordering::SeqCst) {
            answer.metadata.response_code = ResponseCode::Refused;
        } else if let Some(data) = data {
            let data = data.into_iter().filter(|data| {
                data.record_type() == query.query_type() || data.record_type() == RecordType::CNAME
            });
            answer.answers = data.map(|data| Record::from_rdata(query.name().clone(), 60, data)).collect();
        } else {
            answer.metadata.response_code = ResponseCode::NXDomain;
            let soa = RData::SOA(SOA::new(name("a."), name("b."), 1, 1, 1, 1, 60));
            answer.authorities = vec![Record::from_rdata(name("example."), 60, soa)];
        }
        answer.add_query(query);
        if udp && answer.to_vec().unwrap().len() > 512 {
            answer.answers.clear();
            answer.metadata.truncation = true;
        }
        Some(answer)
    }
}

async fn other() -> (Arc<Other>, SocketAddr) {
    let other = Arc::new(Other::default());
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = udp.local_addr().unwrap();
    let tcp = TcpListener::bind(address).await.unwrap();
    let said = Arc::clone(&other);
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (len, client) = udp.recv_from(&mut buffer).await.unwrap();
            let Some(answer) = said.say(&buffer[..len], true) else { continue };
            if said.noisy.load(Ordering::SeqCst) {
                let mut wrong = answer.clone();
                wrong.metadata.id ^= 1;
                udp.send_to(&wrong.to_vec().unwrap(), client).await.unwrap();
                let mut wrong = answer.clone();
                wrong.queries[0].set_name(name("evil.example."));
                udp.send_to(&wrong.to_vec().unwrap(), client).await.unwrap();
                let mut wrong = answer.clone();
                wrong.metadata.message_type = MessageType::Query;
                udp.send_to(&wrong.to_vec().unwrap(), client).await.unwrap();
                udp.send_to(b"no", client).await.unwrap();
            }
            udp.send_to(&answer.to_vec().unwrap(), client).await.unwrap();
        }
    });
    let said = Arc::clone(&other);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            let len = stream.read_u16().await.unwrap();
            let mut query = vec![0; usize::from(len)];
            stream.read_exact(&mut query).await.unwrap();
            said.asked_tcp.fetch_add(1, Ordering::SeqCst);
            let Some(answer) = said.say(&query, false) else { continue };
            let answer = answer.to_vec().unwrap();
            let len = u16::try_from(answer.len()).unwrap();
            stream.write_all(&[&len.to_be_bytes(), answer.as_slice()].concat()).await.unwrap();
        }
    });
    (other, address)
}

/// A name server of ours.
struct Ours {
    address: SocketAddr,
    registry: Registry,
    _serving: JoinSet<()>,
}

async fn ours(servers: Vec<SocketAddr>) -> Ours {
    let zone = zone::Settings {
        domain: name("cluster.local."),
        ttl: 30,
        servers: vec![IpAddr::from([10, 96, 0, 10])],
    };
    let setup = Setup {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        metrics: vec!["127.0.0.1:0".parse().unwrap()],
        zone,
        serial: 1,
        upstreams: Upstreams::Given(servers),
        clients: Clients::default(),
    };
    let registry = Registry::new();
    let bound = Dns::bind(setup, &registry).await.unwrap();
    let (dns, address) = (bound.dns(), bound.addresses().unwrap()[0]);
    let service = |name: &str, spec: serde_json::Value| {
        let service = serde_json::json!({"metadata": {"namespace": "default", "name": name}, "spec": spec});
        Arc::new(serde_json::from_value(service).unwrap())
    };
    dns.services(&Event::Reset(vec![
        service(
            "web",
            serde_json::json!({"clusterIP": "10.96.0.20", "ports": [{"name": "http", "port": 80}]}),
        ),
        service("many", serde_json::json!({"clusterIP": "None"})),
        service("out", serde_json::json!({"type": "ExternalName", "externalName": "www.example"})),
        service("lost", serde_json::json!({"type": "ExternalName", "externalName": "missing.example"})),
    ]));
    let endpoints: Vec<_> = (0..1000)
        .map(|n| serde_json::json!({"addresses": [format!("10.0.{}.{}", n / 250, n % 250)]}))
        .collect();
    dns.endpoint_slices(&Event::Reset(vec![Arc::new(
        serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": "default", "name": "many-1", "labels": {"kubernetes.io/service-name": "many"}},
            "addressType": "IPv4", "endpoints": endpoints,
        }))
        .unwrap(),
    )]));
    let mut serving = JoinSet::new();
    serving.spawn(bound.serve());
    Ours { address, registry, _serving: serving }
}

fn question(question: &str) -> Message {
    let (kind, text) = question.split_once(' ').unwrap();
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(name(text), kind.parse().unwrap()));
    message
}

async fn exchange(address: SocketAddr, packet: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(address).await.unwrap();
    socket.send(packet).await.unwrap();
    let mut buffer = vec![0; 65535];
    let len = timeout(Duration::from_secs(20), socket.recv(&mut buffer)).await.expect("an answer").unwrap();
    buffer.truncate(len);
    buffer
}

async fn exchange_tcp(stream: &mut TcpStream, packet: &[u8]) -> Vec<u8> {
    let len = u16::try_from(packet.len()).unwrap();
    stream.write_all(&[&len.to_be_bytes(), packet].concat()).await.unwrap();
    let mut answer = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut answer).await.unwrap();
    answer
}

fn flags(message: &Message) -> String {
    let flags = [
        ("aa", message.authoritative),
        ("tc", message.truncation),
        ("rd", message.recursion_desired),
        ("ra", message.recursion_available),
        ("ad", message.authentic_data),
    ];
    let set: Vec<_> = flags.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect();
    format!("{:?} {}", message.response_code, set.join(" "))
}

/// `NoError aa rd ra | web.default.svc.cluster.local. 30 IN A 10.96.0.20`
async fn ask(address: SocketAddr, text: &str) -> String {
    let message = question(text);
    let answer = Message::from_vec(&exchange(address, &message.to_vec().unwrap()).await).unwrap();
    assert_eq!(answer.metadata.id, message.metadata.id);
    assert_eq!(answer.queries, message.queries);
    let records: Vec<_> = answer.answers.iter().map(ToString::to_string).collect();
    format!("{} | {}", flags(&answer), records.join(", "))
}

fn address_record(last: u8) -> RData {
    RData::A(A::new(192, 0, 2, last))
}

#[tokio::test]
async fn names_of_the_cluster_and_of_others() {
    let (other, server) = other().await;
    other.records.lock().unwrap().insert("www.example.".into(), vec![address_record(1)]);
    let ours = ours(vec![server]).await;
    for (question, expected) in [
        (
            "A web.default.svc.cluster.local.",
            "NoError aa rd ra | web.default.svc.cluster.local. 30 IN A 10.96.0.20",
        ),
        ("A nope.default.svc.cluster.local.", "NXDomain aa rd ra | "),
        ("A www.example.", "NoError rd ra | www.example. 60 IN A 192.0.2.1"),
        ("A nope.example.", "NXDomain rd ra | "),
        ("ANY www.example.", "NotImp rd ra | "),
        (
            "A out.default.svc.cluster.local.",
            "NoError aa rd ra | out.default.svc.cluster.local. 30 IN CNAME www.example., www.example. 60 IN A 192.0.2.1",
        ),
        (
            "A lost.default.svc.cluster.local.",
            "NXDomain aa rd ra | lost.default.svc.cluster.local. 30 IN CNAME missing.example.",
        ),
    ] {
        assert_eq!(ask(ours.address, question).await, expected);
    }
    let asked = other.asked.load(Ordering::SeqCst);
    assert_eq!(asked, 3, "www, nope, missing: everything else was known");
    assert!(ask(ours.address, "A wWw.exAmple.").await.ends_with("| wWw.exAmple. 60 IN A 192.0.2.1"));
    assert_eq!(other.asked.load(Ordering::SeqCst), asked);
    let metrics = crate::metrics::text(&ours.registry);
    for line in [
        r#"coredns_dns_requests_total{family="1",proto="udp",server="dns://:53",type="A",zone="."} 7"#,
        r#"coredns_dns_responses_total{plugin="kubernetes",rcode="NOERROR",server="dns://:53",zone="."} 2"#,
        r#"coredns_dns_responses_total{plugin="forward",rcode="NXDOMAIN",server="dns://:53",zone="."} 1"#,
        r#"coredns_cache_hits_total{server="dns://:53",type="success"} 2"#,
        "coredns_cache_misses_total 3",
        "coredns_cache_entries 3",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn long_answers_are_cut_by_udp_and_whole_by_tcp() {
    let ours = ours(Vec::new()).await;
    let mut asked = question("A many.default.svc.cluster.local.");
    let packet = asked.to_vec().unwrap();
    let plain = exchange(ours.address, &packet).await;
    let cut = Message::from_vec(&plain).unwrap();
    assert!(plain.len() <= 512 && plain.len() > 480, "{}", plain.len());
    assert_eq!(flags(&cut), "NoError aa tc rd ra");
    assert!(cut.answers.len() > 20 && cut.edns.is_none());
    for (payload, most) in [(100, 512), (1000, 1000), (4096, 1232)] {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        asked.set_edns(edns);
        let answer = exchange(ours.address, &asked.to_vec().unwrap()).await;
        assert!(answer.len() <= most && answer.len() + 64 > most, "{payload}: {}", answer.len());
        let answer = Message::from_vec(&answer).unwrap();
        assert!(answer.truncation);
        assert_eq!(answer.edns.unwrap().max_payload(), 1232);
    }
    let mut stream = TcpStream::connect(ours.address).await.unwrap();
    for _ in 0..2 {
        let whole = Message::from_vec(&exchange_tcp(&mut stream, &packet).await).unwrap();
        assert_eq!((whole.answers.len(), whole.truncation), (1000, false));
    }
}

#[tokio::test]
async fn what_is_no_question_is_refused_or_ignored() {
    let ours = ours(Vec::new()).await;
    let plain = question("A web.default.svc.cluster.local.");
    let changed = |change: fn(&mut Message)| {
        let mut message = plain.clone();
        change(&mut message);
        message.to_vec().unwrap()
    };
    for (packet, expected) in [
        (changed(|m| m.metadata.op_code = OpCode::Status), "NotImp rd ra"),
        (changed(|m| m.metadata.op_code = OpCode::Notify), "NotImp rd ra"),
        (changed(|m| m.queries.clear()), "FormErr rd ra"),
        (changed(|m| m.queries.push(m.queries[0].clone())), "FormErr rd ra"),
        (changed(|m| m.queries[0].query_class = DNSClass::CH), "Refused rd ra"),
        (changed(|m| m.queries[0].query_type = RecordType::AXFR), "Refused rd ra"),
        (
            changed(|m| {
                let mut edns = Edns::new();
                edns.set_version(1);
                m.set_edns(edns);
                // 16 has two names; with OPT it is BADVERS.
            }),
            "BADSIG rd ra",
        ),
        (plain.to_vec().unwrap()[..20].to_vec(), "FormErr rd ra"),
    ] {
        let answer = Message::from_vec(&exchange(ours.address, &packet).await).unwrap();
        assert_eq!(flags(&answer), expected);
    }
    // An answer is not answered, or two name servers could talk for ever.
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket
        .send_to(&changed(|m| m.metadata.message_type = MessageType::Response), ours.address)
        .await
        .unwrap();
    socket.send_to(b"short", ours.address).await.unwrap();
    socket.send_to(b"", ours.address).await.unwrap();
    assert!(timeout(Duration::from_millis(200), socket.recv(&mut [0; 512])).await.is_err());
    assert!(ask(ours.address, "A web.default.svc.cluster.local.").await.starts_with("NoError"));
}

#[tokio::test]
async fn other_servers_are_asked_where_one_is_silent_refuses_or_lies() {
    let (gone, (refusing, refuser), (good, server)) = (
        // Nobody listens there any more.
        UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap(),
        other().await,
        other().await,
    );
    refusing.refuses.store(true, Ordering::SeqCst);
    good.noisy.store(true, Ordering::SeqCst);
    good.records.lock().unwrap().insert("www.example.".into(), vec![address_record(1)]);
    good.records.lock().unwrap().insert("two.example.".into(), vec![address_record(2)]);
    let ours = ours(vec![gone, refuser, server]).await;
    assert_eq!(ask(ours.address, "A www.example.").await, "NoError rd ra | www.example. 60 IN A 192.0.2.1");
    assert_eq!(refusing.asked.load(Ordering::SeqCst), 1);
    ask(ours.address, "A two.example.").await;
    assert_eq!(refusing.asked.load(Ordering::SeqCst), 1, "who answered last is asked first");
}

#[tokio::test]
async fn an_answer_that_does_not_fit_is_fetched_by_tcp() {
    let (other, server) = other().await;
    let text = RData::TXT(TXT::new(vec!["x".repeat(250), "y".repeat(250), "z".repeat(250)]));
    other.records.lock().unwrap().insert("big.example.".into(), vec![text]);
    let ours = ours(vec![server]).await;
    let mut stream = TcpStream::connect(ours.address).await.unwrap();
    let asked = question("TXT big.example.").to_vec().unwrap();
    let answer = Message::from_vec(&exchange_tcp(&mut stream, &asked).await).unwrap();
    assert_eq!(answer.answers.len(), 1);
    assert_eq!(other.asked_tcp.load(Ordering::SeqCst), 1);
    let cut = Message::from_vec(&exchange(ours.address, &asked).await).unwrap();
    assert!(cut.truncation && cut.answers.is_empty(), "512 bytes are not enough for it");
}

#[tokio::test]
async fn an_old_answer_stands_in_when_others_are_gone() {
    let (other, server) = other().await;
    other
        .records
        .lock()
        .unwrap()
        .insert("www.example.".into(), vec![address_record(1), RData::CNAME(CNAME(name("w.example.")))]);
    let ours = ours(vec![server]).await;
    ask(ours.address, "A www.example.").await;
    other.refuses.store(true, Ordering::SeqCst);
    pause();
    advance(Duration::from_secs(61)).await;
    resume();
    let stale = "NoError rd ra | www.example. 30 IN A 192.0.2.1, www.example. 30 IN CNAME w.example.";
    assert_eq!(ask(ours.address, "A www.example.").await, stale);
    let asked = other.asked.load(Ordering::SeqCst);
    assert_eq!(ask(ours.address, "A www.example.").await, stale);
    assert_eq!(other.asked.load(Ordering::SeqCst), asked, "it is not tried again at once");
    assert_eq!(ask(ours.address, "A new.example.").await, "Refused rd ra | ");
    pause();
    advance(Duration::from_secs(31)).await;
    resume();
    other.refuses.store(false, Ordering::SeqCst);
    assert!(ask(ours.address, "A www.example.").await.contains("www.example. 60 IN A 192.0.2.1"));
    // Silence costs a client that has an old answer less than two seconds.
    other.silent.store(true, Ordering::SeqCst);
    pause();
    advance(Duration::from_secs(61)).await;
    resume();
    let start = std::time::Instant::now();
    assert_eq!(ask(ours.address, "A www.example.").await, stale);
    assert!(start.elapsed() < Duration::from_millis(2500), "{:?}", start.elapsed());
    assert!(crate::metrics::text(&ours.registry).contains("coredns_cache_served_stale_total 3"));
}

#[tokio::test]
async fn many_clients_ask_others_once() {
    let (other, server) = other().await;
    other.silent.store(true, Ordering::SeqCst);
    let ours = ours(vec![server]).await;
    let mut clients = JoinSet::new();
    for _ in 0..100 {
        let address = ours.address;
        clients.spawn(async move { ask(address, "A slow.example.").await });
    }
    while let Some(answer) = clients.join_next().await {
        assert_eq!(answer.unwrap(), "ServFail rd ra | ");
    }
    assert_eq!(other.asked.load(Ordering::SeqCst), 3, "three tries of one question");
}

#[tokio::test]
async fn a_server_that_asks_us_is_one_question_and_no_storm() {
    // Whatever it is asked it asks us.
    let relay = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let relay_address = relay.local_addr().unwrap();
    let ours = ours(vec![relay_address]).await;
    let (address, relayed) = (ours.address, Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&relayed);
    tokio::spawn(async move {
        let to_us = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut buffer = [0; 512];
        loop {
            let (len, _) = relay.recv_from(&mut buffer).await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            to_us.send_to(&buffer[..len], address).await.unwrap();
        }
    });
    assert_eq!(ask(ours.address, "A loop.example.").await, "ServFail rd ra | ");
    assert_eq!(relayed.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn one_client_does_not_take_all_connections() {
    let ours = ours(Vec::new()).await;
    let mut open = Vec::new();
    for _ in 0..40 {
        open.push(TcpStream::connect(ours.address).await.unwrap());
    }
    let asked = question("A web.default.svc.cluster.local.").to_vec().unwrap();
    let mut served = 0;
    for stream in &mut open {
        let len = u16::try_from(asked.len()).unwrap();
        let _closed = stream.write_all(&[&len.to_be_bytes(), asked.as_slice()].concat()).await;
        served += usize::from(stream.read_u16().await.is_ok());
    }
    assert_eq!(served, 32);
    drop(open);
    assert!(ask(ours.address, "A web.default.svc.cluster.local.").await.starts_with("NoError"));
}

proptest::proptest! {
    /// Whatever a packet is, it is read without a panic, and what is answered is no longer than may be.
    #[test]
    fn any_packet_is_read(packet in proptest::collection::vec(proptest::num::u8::ANY, 0..600), flips in proptest::collection::vec((0_usize..600, proptest::num::u8::ANY), 0..6), real: bool) {
        let mut packet = packet;
        if real {
            let mut message = question("SRV _http._tcp.web.default.svc.cluster.local.");
            message.set_edns(Edns::new());
            packet = message.to_vec().unwrap();
        }
        for (at, byte) in flips {
            let len = packet.len().max(1);
            if let Some(old) = packet.get_mut(at % len) {
                *old = byte;
            }
        }
        match wire::read(&packet) {
            wire::Incoming::Question(request) => {
                let name = request.query.name().clone();
                let record = Record::from_rdata(name, 1, address_record(1));
                let reply = wire::Reply { answers: vec![record; 500], ..wire::Reply::default() };
                for transport in [wire::Transport::Udp, wire::Transport::Tcp] {
                    let answer = request.write(&reply, transport);
                    proptest::prop_assert!(answer.len() <= request.limit(transport));
                    proptest::prop_assert!(Message::from_vec(&answer).is_ok());
                }
            }
            wire::Incoming::Refused(_, answer) => {
                proptest::prop_assert!(answer.len() <= 512 && Message::from_vec(&answer).is_ok());
            }
            wire::Incoming::Noise => {}
        }
    }
}
