use expect_test::{Expect, expect};
use hickory_proto::{
    op::{Query, ResponseCode},
    rr::{RecordType, domain::Name},
};
use serde::{Deserialize, de::DeserializeOwned};

use super::*;

/// A cluster with a bit of everything.
const CLUSTER: &str = r#"
service: {metadata: {namespace: default, name: web}, spec: {clusterIP: 10.96.0.20, clusterIPs: [10.96.0.20, "fd00::20"], ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]}}
---
slice: {metadata: {namespace: default, name: web-1, labels: {kubernetes.io/service-name: web}}, addressType: IPv4, endpoints: [{addresses: [10.0.0.7]}], ports: [{name: http, port: 8080}]}
---
service: {metadata: {namespace: default, name: plain}, spec: {clusterIP: 10.96.0.21, ports: [{port: 80}]}}
---
service: {metadata: {namespace: data, name: db}, spec: {clusterIP: None, clusterIPs: [None], ports: [{name: sql, port: 5432}]}}
---
slice:
  metadata: {namespace: data, name: db-4, labels: {kubernetes.io/service-name: db}}
  addressType: IPv4
  ports: [{name: sql, port: 5432}]
  endpoints:
  - {addresses: [10.0.0.1], hostname: db-0, conditions: {ready: true}}
  - {addresses: [10.0.0.2], hostname: db-1}
  - {addresses: [10.0.0.3], hostname: db-2, conditions: {ready: false, serving: true}}
  - {addresses: [10.0.0.4]}
---
slice: {metadata: {namespace: data, name: db-6, labels: {kubernetes.io/service-name: db}}, addressType: IPv6, ports: [{name: sql, port: 5432}], endpoints: [{addresses: ["fd00:1::1"], hostname: db-0}, {addresses: ["fd00:1::4"]}]}
---
service: {metadata: {namespace: data, name: none}, spec: {clusterIP: None, ports: [{name: sql, port: 1}]}}
---
service: {metadata: {namespace: default, name: outside}, spec: {type: ExternalName, externalName: www.example.com}}
---
service: {metadata: {namespace: default, name: inside}, spec: {type: ExternalName, externalName: Web.default.svc.cluster.local.}}
---
service: {metadata: {namespace: default, name: nowhere}, spec: {type: ExternalName, externalName: x.default.svc.cluster.local}}
---
service: {metadata: {namespace: default, name: loop}, spec: {type: ExternalName, externalName: loop.default.svc.cluster.local}}
---
service: {metadata: {namespace: default, name: number}, spec: {type: ExternalName, externalName: 192.0.2.1}}
---
slice: {metadata: {namespace: default, name: orphan-1, labels: {kubernetes.io/service-name: orphan}}, addressType: IPv4, endpoints: [{addresses: [10.0.0.9], hostname: h}], ports: []}
"#;

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
struct Object {
    service: Option<serde_json::Value>,
    slice: Option<serde_json::Value>,
}

fn parse<T: DeserializeOwned>(value: serde_json::Value) -> Arc<T> {
    Arc::new(serde_json::from_value(value).unwrap())
}

fn objects(yaml: &str) -> (Vec<Arc<Service>>, Vec<Arc<EndpointSlice>>) {
    let (mut services, mut slices) = (Vec::new(), Vec::new());
    for document in serde_norway::Deserializer::from_str(yaml) {
        let object = Object::deserialize(document).unwrap();
        services.extend(object.service.map(parse));
        slices.extend(object.slice.map(parse));
    }
    (services, slices)
}

fn empty() -> Zone {
    let settings = Settings {
        domain: Name::from_ascii("cluster.local.").unwrap(),
        ttl: 30,
        servers: vec![IpAddr::from([10, 96, 0, 10])],
    };
    Zone::new(settings, 7)
}

fn zone(yaml: &str) -> Zone {
    let (services, slices) = objects(yaml);
    let mut zone = empty();
    zone.endpoint_slices(&Event::Reset(slices));
    zone.services(&Event::Reset(services));
    zone
}

/// `A web.default.svc.cluster.local` → what is answered, one record a line.
fn ask(zone: &Zone, question: &str, turn: usize, most: usize) -> String {
    let (kind, name) = question.split_once(' ').unwrap();
    let name = Name::from_labels(name.split('.').map(str::as_bytes)).unwrap();
    let query = Query::query(name, kind.parse().unwrap());
    let Some(answer) = zone.answer(&query, turn, most) else { return "not ours".to_owned() };
    let mut lines = Vec::new();
    if answer.code != ResponseCode::NoError {
        lines.push(format!("{:?}", answer.code));
    }
    lines.extend(answer.answers.iter().map(ToString::to_string));
    lines.extend(answer.authorities.iter().map(|record| match record.record_type() {
        RecordType::SOA => "  no more".to_owned(),
        _ => format!("  ? {record}"),
    }));
    lines.extend(answer.additionals.iter().map(|record| format!("  + {record}")));
    lines.extend(answer.follow.map(|target| format!("  -> {target}")));
    lines.join("\n")
}

#[track_caller]
fn check(questions: &[&str], expected: Expect) {
    let zone = zone(CLUSTER);
    let said: Vec<_> =
        questions.iter().map(|question| format!("{question}\n{}", ask(&zone, question, 0, 100))).collect();
    expected.assert_eq(&(said.join("\n\n") + "\n"));
}

#[test]
fn a_service_is_its_addresses_and_ports() {
    check(
        &[
            "A web.default.svc.cluster.local",
            "AAAA web.default.svc.cluster.local",
            "TXT web.default.svc.cluster.local",
            "ANY web.default.svc.cluster.local",
            "A WEB.deFault.svc.CLUSTER.local",
            "SRV _http._tcp.web.default.svc.cluster.local",
            "SRV _HTTP._tcp.web.default.svc.cluster.local",
            "SRV web.default.svc.cluster.local",
            "A _http._tcp.web.default.svc.cluster.local",
            "SRV _tcp.web.default.svc.cluster.local",
            "SRV _http._udp.web.default.svc.cluster.local",
            "SRV http.tcp.web.default.svc.cluster.local",
            "SRV _sctp.web.default.svc.cluster.local",
            "SRV _._tcp.plain.default.svc.cluster.local",
            "A 10-0-0-7.web.default.svc.cluster.local",
            "SRV 10-0-0-7.web.default.svc.cluster.local",
            "A 10-0-0-8.web.default.svc.cluster.local",
        ],
        expect![[r#"
            A web.default.svc.cluster.local
            web.default.svc.cluster.local. 30 IN A 10.96.0.20

            AAAA web.default.svc.cluster.local
            web.default.svc.cluster.local. 30 IN AAAA fd00::20

            TXT web.default.svc.cluster.local
              no more

            ANY web.default.svc.cluster.local
            web.default.svc.cluster.local. 30 IN HINFO RFC8482 

            A WEB.deFault.svc.CLUSTER.local
            WEB.deFault.svc.CLUSTER.local. 30 IN A 10.96.0.20

            SRV _http._tcp.web.default.svc.cluster.local
            _http._tcp.web.default.svc.cluster.local. 30 IN SRV 0 100 80 web.default.svc.cluster.local.
              + web.default.svc.cluster.local. 30 IN A 10.96.0.20
              + web.default.svc.cluster.local. 30 IN AAAA fd00::20

            SRV _HTTP._tcp.web.default.svc.cluster.local
            _HTTP._tcp.web.default.svc.cluster.local. 30 IN SRV 0 100 80 web.default.svc.cluster.local.
              + web.default.svc.cluster.local. 30 IN A 10.96.0.20
              + web.default.svc.cluster.local. 30 IN AAAA fd00::20

            SRV web.default.svc.cluster.local
            web.default.svc.cluster.local. 30 IN SRV 0 50 53 web.default.svc.cluster.local.
            web.default.svc.cluster.local. 30 IN SRV 0 50 80 web.default.svc.cluster.local.
              + web.default.svc.cluster.local. 30 IN A 10.96.0.20
              + web.default.svc.cluster.local. 30 IN AAAA fd00::20

            A _http._tcp.web.default.svc.cluster.local
            _http._tcp.web.default.svc.cluster.local. 30 IN A 10.96.0.20

            SRV _tcp.web.default.svc.cluster.local
              no more

            SRV _http._udp.web.default.svc.cluster.local
            NXDomain
              no more

            SRV http.tcp.web.default.svc.cluster.local
            NXDomain
              no more

            SRV _sctp.web.default.svc.cluster.local
            NXDomain
              no more

            SRV _._tcp.plain.default.svc.cluster.local
            NXDomain
              no more

            A 10-0-0-7.web.default.svc.cluster.local
            10-0-0-7.web.default.svc.cluster.local. 30 IN A 10.0.0.7

            SRV 10-0-0-7.web.default.svc.cluster.local
            10-0-0-7.web.default.svc.cluster.local. 30 IN SRV 0 100 8080 10-0-0-7.web.default.svc.cluster.local.
              + 10-0-0-7.web.default.svc.cluster.local. 30 IN A 10.0.0.7

            A 10-0-0-8.web.default.svc.cluster.local
            NXDomain
              no more
        "#]],
    );
}

#[test]
fn a_headless_service_is_its_ready_endpoints() {
    check(
        &[
            "A db.data.svc.cluster.local",
            "AAAA db.data.svc.cluster.local",
            "A db-0.db.data.svc.cluster.local",
            "AAAA db-0.db.data.svc.cluster.local",
            "A db-1.db.data.svc.cluster.local",
            "AAAA db-1.db.data.svc.cluster.local",
            "A db-2.db.data.svc.cluster.local",
            "A 10-0-0-4.db.data.svc.cluster.local",
            "A 10-0-0-1.db.data.svc.cluster.local",
            "AAAA fd00-1--4.db.data.svc.cluster.local",
            "SRV _sql._tcp.db.data.svc.cluster.local",
            "SRV db-1.db.data.svc.cluster.local",
            "MX db.data.svc.cluster.local",
            "A none.data.svc.cluster.local",
            "SRV _sql._tcp.none.data.svc.cluster.local",
        ],
        expect![[r#"
            A db.data.svc.cluster.local
            db.data.svc.cluster.local. 30 IN A 10.0.0.1
            db.data.svc.cluster.local. 30 IN A 10.0.0.2
            db.data.svc.cluster.local. 30 IN A 10.0.0.4

            AAAA db.data.svc.cluster.local
            db.data.svc.cluster.local. 30 IN AAAA fd00:1::1
            db.data.svc.cluster.local. 30 IN AAAA fd00:1::4

            A db-0.db.data.svc.cluster.local
            db-0.db.data.svc.cluster.local. 30 IN A 10.0.0.1

            AAAA db-0.db.data.svc.cluster.local
            db-0.db.data.svc.cluster.local. 30 IN AAAA fd00:1::1

            A db-1.db.data.svc.cluster.local
            db-1.db.data.svc.cluster.local. 30 IN A 10.0.0.2

            AAAA db-1.db.data.svc.cluster.local
              no more

            A db-2.db.data.svc.cluster.local
            NXDomain
              no more

            A 10-0-0-4.db.data.svc.cluster.local
            10-0-0-4.db.data.svc.cluster.local. 30 IN A 10.0.0.4

            A 10-0-0-1.db.data.svc.cluster.local
            NXDomain
              no more

            AAAA fd00-1--4.db.data.svc.cluster.local
            fd00-1--4.db.data.svc.cluster.local. 30 IN AAAA fd00:1::4

            SRV _sql._tcp.db.data.svc.cluster.local
            _sql._tcp.db.data.svc.cluster.local. 30 IN SRV 0 25 5432 10-0-0-4.db.data.svc.cluster.local.
            _sql._tcp.db.data.svc.cluster.local. 30 IN SRV 0 25 5432 db-0.db.data.svc.cluster.local.
            _sql._tcp.db.data.svc.cluster.local. 30 IN SRV 0 25 5432 db-1.db.data.svc.cluster.local.
            _sql._tcp.db.data.svc.cluster.local. 30 IN SRV 0 25 5432 fd00-1--4.db.data.svc.cluster.local.
              + 10-0-0-4.db.data.svc.cluster.local. 30 IN A 10.0.0.4
              + db-0.db.data.svc.cluster.local. 30 IN A 10.0.0.1
              + db-0.db.data.svc.cluster.local. 30 IN AAAA fd00:1::1
              + db-1.db.data.svc.cluster.local. 30 IN A 10.0.0.2
              + fd00-1--4.db.data.svc.cluster.local. 30 IN AAAA fd00:1::4

            SRV db-1.db.data.svc.cluster.local
            db-1.db.data.svc.cluster.local. 30 IN SRV 0 100 5432 db-1.db.data.svc.cluster.local.
              + db-1.db.data.svc.cluster.local. 30 IN A 10.0.0.2

            MX db.data.svc.cluster.local
              no more

            A none.data.svc.cluster.local
            NXDomain
              no more

            SRV _sql._tcp.none.data.svc.cluster.local
            NXDomain
              no more
        "#]],
    );
}

#[test]
fn an_external_name_is_an_alias() {
    check(
        &[
            "A outside.default.svc.cluster.local",
            "CNAME outside.default.svc.cluster.local",
            "A _http._tcp.outside.default.svc.cluster.local",
            "A x.outside.default.svc.cluster.local",
            "A inside.default.svc.cluster.local",
            "SRV inside.default.svc.cluster.local",
            "TXT inside.default.svc.cluster.local",
            "A nowhere.default.svc.cluster.local",
            "A loop.default.svc.cluster.local",
            "A number.default.svc.cluster.local",
        ],
        expect![[r#"
            A outside.default.svc.cluster.local
            outside.default.svc.cluster.local. 30 IN CNAME www.example.com.
              -> www.example.com.

            CNAME outside.default.svc.cluster.local
            outside.default.svc.cluster.local. 30 IN CNAME www.example.com.

            A _http._tcp.outside.default.svc.cluster.local
            NXDomain
              no more

            A x.outside.default.svc.cluster.local
            NXDomain
              no more

            A inside.default.svc.cluster.local
            inside.default.svc.cluster.local. 30 IN CNAME Web.default.svc.cluster.local.
            Web.default.svc.cluster.local. 30 IN A 10.96.0.20

            SRV inside.default.svc.cluster.local
            inside.default.svc.cluster.local. 30 IN CNAME Web.default.svc.cluster.local.
            Web.default.svc.cluster.local. 30 IN SRV 0 50 53 web.default.svc.cluster.local.
            Web.default.svc.cluster.local. 30 IN SRV 0 50 80 web.default.svc.cluster.local.
              + web.default.svc.cluster.local. 30 IN A 10.96.0.20
              + web.default.svc.cluster.local. 30 IN AAAA fd00::20

            TXT inside.default.svc.cluster.local
            inside.default.svc.cluster.local. 30 IN CNAME Web.default.svc.cluster.local.
              no more

            A nowhere.default.svc.cluster.local
            NXDomain
            nowhere.default.svc.cluster.local. 30 IN CNAME x.default.svc.cluster.local.
              no more

            A loop.default.svc.cluster.local
            ServFail

            A number.default.svc.cluster.local
            NXDomain
              no more
        "#]],
    );
}

#[test]
fn pods_have_names_by_address() {
    check(
        &[
            "A 10-1-2-3.default.pod.cluster.local",
            "AAAA 10-1-2-3.default.pod.cluster.local",
            "AAAA 2001-db8--1.default.pod.cluster.local",
            "A 2001-db8--1.default.pod.cluster.local",
            "AAAA --1.default.pod.cluster.local",
            "A 10-1-2.default.pod.cluster.local",
            "A 10-1-2-300.default.pod.cluster.local",
            "A web.default.pod.cluster.local",
            "A x.10-1-2-3.default.pod.cluster.local",
            "A default.pod.cluster.local",
            "A nobody.pod.cluster.local",
        ],
        expect![[r#"
            A 10-1-2-3.default.pod.cluster.local
            10-1-2-3.default.pod.cluster.local. 30 IN A 10.1.2.3

            AAAA 10-1-2-3.default.pod.cluster.local
              no more

            AAAA 2001-db8--1.default.pod.cluster.local
            2001-db8--1.default.pod.cluster.local. 30 IN AAAA 2001:db8::1

            A 2001-db8--1.default.pod.cluster.local
              no more

            AAAA --1.default.pod.cluster.local
            \--1.default.pod.cluster.local. 30 IN AAAA ::1

            A 10-1-2.default.pod.cluster.local
            NXDomain
              no more

            A 10-1-2-300.default.pod.cluster.local
            NXDomain
              no more

            A web.default.pod.cluster.local
            NXDomain
              no more

            A x.10-1-2-3.default.pod.cluster.local
            NXDomain
              no more

            A default.pod.cluster.local
              no more

            A nobody.pod.cluster.local
            NXDomain
              no more
        "#]],
    );
}

#[test]
fn addresses_have_names() {
    check(
        &[
            "PTR 20.0.96.10.in-addr.arpa",
            "PTR 0.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.IP6.ARPA",
            "PTR 1.0.0.10.in-addr.arpa",
            "PTR 3.0.0.10.in-addr.arpa",
            "PTR 4.0.0.10.in-addr.arpa",
            "PTR 9.0.0.10.in-addr.arpa",
            "PTR 020.0.96.10.in-addr.arpa",
            "PTR 0.96.10.in-addr.arpa",
            "PTR x.0.0.96.10.in-addr.arpa",
            "A 20.0.96.10.in-addr.arpa",
            "PTR 8.8.8.8.in-addr.arpa",
        ],
        expect![[r#"
            PTR 20.0.96.10.in-addr.arpa
            20.0.96.10.in-addr.arpa. 30 IN PTR web.default.svc.cluster.local.

            PTR 0.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.IP6.ARPA
            0.2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.IP6.ARPA. 30 IN PTR web.default.svc.cluster.local.

            PTR 1.0.0.10.in-addr.arpa
            1.0.0.10.in-addr.arpa. 30 IN PTR db-0.db.data.svc.cluster.local.

            PTR 3.0.0.10.in-addr.arpa
            not ours

            PTR 4.0.0.10.in-addr.arpa
            not ours

            PTR 9.0.0.10.in-addr.arpa
            not ours

            PTR 020.0.96.10.in-addr.arpa
            not ours

            PTR 0.96.10.in-addr.arpa
            not ours

            PTR x.0.0.96.10.in-addr.arpa
            not ours

            A 20.0.96.10.in-addr.arpa
            not ours

            PTR 8.8.8.8.in-addr.arpa
            not ours
        "#]],
    );
}

#[test]
fn the_domain_itself() {
    check(
        &[
            "SOA cluster.local",
            "NS cluster.local",
            "A cluster.local",
            "A ns.dns.cluster.local",
            "AAAA ns.dns.cluster.local",
            "A dns.cluster.local",
            "TXT dns-version.cluster.local",
            "A dns-version.cluster.local",
            "A svc.cluster.local",
            "A pod.cluster.local",
            "A default.svc.cluster.local",
            "A empty.svc.cluster.local",
            "A missing.default.svc.cluster.local",
            "A orphan.default.svc.cluster.local",
            "A *.default.svc.cluster.local",
            "A web.*.svc.cluster.local",
            "A web.default.cluster.local",
            "A web.default",
            "A local",
            "A example.com",
            "A notcluster.local",
            "A a.b.c.web.default.svc.cluster.local",
        ],
        expect![[r#"
            SOA cluster.local
            cluster.local. 30 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 9 7200 1800 86400 30

            NS cluster.local
            cluster.local. 30 IN NS ns.dns.cluster.local.
              + ns.dns.cluster.local. 30 IN A 10.96.0.10

            A cluster.local
              no more

            A ns.dns.cluster.local
            ns.dns.cluster.local. 30 IN A 10.96.0.10

            AAAA ns.dns.cluster.local
              no more

            A dns.cluster.local
              no more

            TXT dns-version.cluster.local
            dns-version.cluster.local. 30 IN TXT 1.1.0

            A dns-version.cluster.local
              no more

            A svc.cluster.local
              no more

            A pod.cluster.local
              no more

            A default.svc.cluster.local
              no more

            A empty.svc.cluster.local
            NXDomain
              no more

            A missing.default.svc.cluster.local
            NXDomain
              no more

            A orphan.default.svc.cluster.local
            NXDomain
              no more

            A *.default.svc.cluster.local
            NXDomain
              no more

            A web.*.svc.cluster.local
            NXDomain
              no more

            A web.default.cluster.local
            NXDomain
              no more

            A web.default
            not ours

            A local
            not ours

            A example.com
            not ours

            A notcluster.local
            not ours

            A a.b.c.web.default.svc.cluster.local
            NXDomain
              no more
        "#]],
    );
    expect!["cluster.local. 30 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 9 7200 1800 86400 30"]
        .assert_eq(&ask(&zone(CLUSTER), "SOA cluster.local", 0, 9));
}

#[test]
fn labels_that_are_no_text_are_no_names() {
    let zone = zone(CLUSTER);
    let ask = |labels: &[&[u8]]| {
        let query = Query::query(Name::from_labels(labels.iter().copied()).unwrap(), RecordType::A);
        zone.answer(&query, 0, 9).map(|answer| answer.code)
    };
    let below: [&[u8]; 5] = [b"web", b"default", b"svc", b"cluster", b"local"];
    assert_eq!(ask(&below), Some(ResponseCode::NoError));
    assert_eq!(
        ask(&[b"\xff".as_slice(), b"default", b"svc", b"cluster", b"local"]),
        Some(ResponseCode::NXDomain)
    );
    assert_eq!(
        ask(&[b"w.b".as_slice(), b"default", b"svc", b"cluster", b"local"]),
        Some(ResponseCode::NXDomain)
    );
    assert_eq!(ask(&[b"\xff".as_slice(), b"example"]), None);
    // As long as a name can be, and all in the cluster.
    let long: Vec<&[u8]> =
        std::iter::repeat_n(b"a".as_slice(), 118).chain(below[2..].iter().copied()).collect();
    assert_eq!(ask(&long), Some(ResponseCode::NXDomain));
}

#[test]
fn answers_begin_at_another_endpoint_each_time_and_end_where_told() {
    let zone = zone(CLUSTER);
    let first = |turn| {
        let answer = ask(&zone, "A db.data.svc.cluster.local", turn, 2);
        answer.lines().map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    expect!["10.0.0.1 10.0.0.2, 10.0.0.2 10.0.0.4, 10.0.0.4 10.0.0.1, 10.0.0.1 10.0.0.2"]
        .assert_eq(&[first(0), first(1), first(2), first(3)].join(", "));
}

#[test]
fn before_the_first_lists_nothing_is_said_not_to_exist() {
    let mut zone = empty();
    assert_eq!(ask(&zone, "A web.default.svc.cluster.local", 0, 9), "ServFail");
    zone.services(&Event::Reset(objects(CLUSTER).0));
    assert_eq!(ask(&zone, "A web.default.svc.cluster.local", 0, 9), "ServFail");
    assert_eq!(ask(&zone, "A example.com", 0, 9), "not ours");
    zone.endpoint_slices(&Event::Reset(Vec::new()));
    expect!["web.default.svc.cluster.local. 30 IN A 10.96.0.20"].assert_eq(&ask(
        &zone,
        "A web.default.svc.cluster.local",
        0,
        9,
    ));
}

#[test]
fn namespaces_that_are_watched_are_known() {
    let mut zone = zone(CLUSTER);
    let namespace = |name: &str| {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(name.to_owned());
        Arc::new(namespace)
    };
    let both = |zone: &Zone| {
        let svc = ask(zone, "A empty.svc.cluster.local", 0, 9);
        format!("{svc}; {}", ask(zone, "A 10-0-0-1.empty.pod.cluster.local", 0, 9)).replace('\n', "")
    };
    expect!["NXDomain  no more; 10-0-0-1.empty.pod.cluster.local. 30 IN A 10.0.0.1"].assert_eq(&both(&zone));
    zone.namespaces(&Event::Reset(vec![namespace("default")]));
    expect!["NXDomain  no more; NXDomain  no more"].assert_eq(&both(&zone));
    zone.namespaces(&Event::Apply(namespace("empty")));
    expect!["  no more; 10-0-0-1.empty.pod.cluster.local. 30 IN A 10.0.0.1"].assert_eq(&both(&zone));
    zone.namespaces(&Event::Delete(namespace("empty")));
    expect!["NXDomain  no more; NXDomain  no more"].assert_eq(&both(&zone));
}

/// Everything that can be asked for.
fn all(zone: &Zone) -> String {
    let names = [
        "A web.default.svc.cluster.local",
        "SRV _http._tcp.web.default.svc.cluster.local",
        "A 10-0-0-7.web.default.svc.cluster.local",
        "A db.data.svc.cluster.local",
        "AAAA db.data.svc.cluster.local",
        "SRV _sql._tcp.db.data.svc.cluster.local",
        "A inside.default.svc.cluster.local",
        "PTR 20.0.96.10.in-addr.arpa",
        "PTR 1.0.0.10.in-addr.arpa",
        "A default.svc.cluster.local",
        "A data.svc.cluster.local",
    ];
    names.map(|name| ask(zone, name, 0, 100)).join("\n")
}

proptest::proptest! {
    /// Whatever was there before, and in whatever order things came: the names are those of what is there now.
    #[test]
    fn history_leaves_no_trace(steps in proptest::collection::vec((0_usize..14, 0..4), 0..60)) {
        let (services, slices) = objects(CLUSTER);
        let (mut zone, mut now) = (empty(), (BTreeMap::new(), BTreeMap::new()));
        zone.services(&Event::Reset(Vec::new()));
        zone.endpoint_slices(&Event::Reset(Vec::new()));
        for (at, what) in steps {
            let service = services[at % services.len()].clone();
            let slice = slices[at % slices.len()].clone();
            let mut moved = (*slice).clone();
            moved.metadata.labels.get_or_insert_default().insert(SERVICE_NAME.into(), "web".into());
            match what {
                0 => {
                    now.0.insert(service.name_any(), service.clone());
                    zone.services(&Event::Apply(service));
                }
                1 => {
                    now.0.remove(&service.name_any());
                    zone.services(&Event::Delete(service));
                }
                2 => {
                    let slice = if at % 2 == 0 { slice } else { Arc::new(moved) };
                    now.1.insert(slice.name_any(), slice.clone());
                    zone.endpoint_slices(&Event::Apply(slice));
                }
                _ => {
                    now.1.remove(&slice.name_any());
                    zone.endpoint_slices(&Event::Delete(slice));
                }
            }
        }
        let mut fresh = empty();
        fresh.services(&Event::Reset(now.0.values().cloned().collect()));
        fresh.endpoint_slices(&Event::Reset(now.1.values().cloned().collect()));
        proptest::prop_assert_eq!(all(&zone), all(&fresh));
        zone.services(&Event::Reset(Vec::new()));
        zone.endpoint_slices(&Event::Reset(Vec::new()));
        proptest::prop_assert!(zone.entries.is_empty() && zone.slices.is_empty());
        proptest::prop_assert!(zone.reverse.is_empty());
    }
}
