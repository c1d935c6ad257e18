//! The environment of a container: service variables, `envFrom`, `env`.
//!
//! The objects it refers to arrive as an argument; fetching them is the executor's work.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Container, EnvVarSource, Pod, Secret, Service},
};

use super::{downward, env_file, expand::expand, settings::Settings};

/// API objects by name, all of the pod's namespace. A missing entry is an object that does not exist.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    /// ConfigMaps.
    pub config_maps: BTreeMap<String, Arc<ConfigMap>>,
    /// Secrets.
    pub secrets: BTreeMap<String, Arc<Secret>>,
    /// Services of the pod's namespace; `None` before the first list.
    pub services: Option<Vec<Arc<Service>>>,
    /// The service `kubernetes` of namespace `default`.
    pub kubernetes: Option<Arc<Service>>,
    /// Env files of the pod's volumes.
    pub files: Files,
}

/// Texts by volume and path. A missing entry is a file that does not exist.
pub type Files = BTreeMap<(String, String), String>;

/// What a variable may be built from.
pub struct Context<'a> {
    /// The node.
    pub settings: &'a Settings,
    /// The pod.
    pub pod: &'a Pod,
    /// Its addresses.
    pub pod_ips: &'a [IpAddr],
    /// Objects it refers to.
    pub objects: &'a Objects,
}

/// The variables of a container, in the order in which they were defined; later ones win.
pub fn resolve(context: &Context<'_>, container: &Container) -> Result<Vec<(String, String)>, String> {
    let services = service_variables(context)?;
    let mut env = Env::default();
    for source in container.env_from.iter().flatten() {
        let prefix = source.prefix.as_deref().unwrap_or_default();
        if let Some(from) = &source.config_map_ref {
            let Some(map) = context.objects.config_maps.get(&from.name) else {
                optional(from.optional, || missing("configmap", &from.name))?;
                continue;
            };
            for (key, value) in map.data.iter().flatten() {
                env.set(format!("{prefix}{key}"), value.clone());
            }
        }
        if let Some(from) = &source.secret_ref {
            let Some(secret) = context.objects.secrets.get(&from.name) else {
                optional(from.optional, || missing("secret", &from.name))?;
                continue;
            };
            for (key, value) in secret.data.iter().flatten() {
                env.set(format!("{prefix}{key}"), lossy(value));
            }
        }
    }
    for var in container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (Some(value), _) if !value.is_empty() => {
                let known = |name: &str| env.get(name).or_else(|| services.get(name).cloned());
                Some(expand(value, known))
            }
            (_, Some(source)) => from_source(context, container, source)?,
            _ => Some(String::new()),
        };
        if let Some(value) = value {
            env.set(var.name.clone(), value);
        }
    }
    let mut all: Vec<_> = services.into_iter().filter(|(name, _)| env.get(name).is_none()).collect();
    all.extend(env.vars);
    Ok(all)
}

#[derive(Default)]
struct Env {
    vars: Vec<(String, String)>,
}

impl Env {
    fn set(&mut self, name: String, value: String) {
        match self.vars.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.vars.push((name, value)),
        }
    }

    fn get(&self, name: &str) -> Option<String> {
        self.vars.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
    }
}

fn optional(optional: Option<bool>, error: impl FnOnce() -> String) -> Result<(), String> {
    if optional.unwrap_or_default() { Ok(()) } else { Err(error()) }
}

fn missing(kind: &str, name: &str) -> String {
    format!("{kind} \"{name}\" not found")
}

fn lossy(value: &ByteString) -> String {
    String::from_utf8_lossy(&value.0).into_owned()
}

/// `None`: optional and not there.
fn from_source(
    context: &Context<'_>,
    container: &Container,
    source: &EnvVarSource,
) -> Result<Option<String>, String> {
    let namespace = context.pod.metadata.namespace.as_deref().unwrap_or_default();
    let no_key =
        |kind: &str, key: &str, name: &str| format!("couldn't find key {key} in {kind} {namespace}/{name}");
    if let Some(field) = &source.field_ref {
        return downward::env_field(context.settings, context.pod, context.pod_ips, field).map(Some);
    }
    if let Some(field) = &source.resource_field_ref {
        return downward::resource(context.settings, context.pod, &container.name, field).map(Some);
    }
    if let Some(from) = &source.config_map_key_ref {
        let Some(map) = context.objects.config_maps.get(&from.name) else {
            return optional(from.optional, || missing("configmap", &from.name)).map(|()| None);
        };
        let value = map.data.as_ref().and_then(|data| data.get(&from.key));
        return match value {
            Some(value) => Ok(Some(value.clone())),
            None => optional(from.optional, || no_key("ConfigMap", &from.key, &from.name)).map(|()| None),
        };
    }
    if let Some(from) = &source.secret_key_ref {
        let Some(secret) = context.objects.secrets.get(&from.name) else {
            return optional(from.optional, || missing("secret", &from.name)).map(|()| None);
        };
        let value = secret.data.as_ref().and_then(|data| data.get(&from.key));
        return match value {
            Some(value) => Ok(Some(lossy(value))),
            None => optional(from.optional, || no_key("Secret", &from.key, &from.name)).map(|()| None),
        };
    }
    if let Some(from) = &source.file_key_ref {
        let Some(text) = context.objects.files.get(&(from.volume_name.clone(), from.path.clone())) else {
            return optional(from.optional, || "couldn't parse env file".to_owned()).map(|()| None);
        };
        let value =
            env_file::value(text, &from.key).map_err(|why| format!("couldn't parse env file: {why}"))?;
        let none = || format!("environment variable key \"{}\" not found in file", from.key);
        return match value.filter(|value| !value.is_empty()) {
            Some(value) => Ok(Some(value)),
            None => optional(from.optional, none).map(|()| None),
        };
    }
    Ok(Some(String::new()))
}

/// Variables in the style of Docker links, for `kubernetes` and the services of the pod's namespace.
fn service_variables(context: &Context<'_>) -> Result<BTreeMap<String, String>, String> {
    let links = context.pod.spec.as_ref().and_then(|spec| spec.enable_service_links).unwrap_or(true);
    let Some(services) = &context.objects.services else {
        let annotations = context.pod.metadata.annotations.as_ref();
        let own = annotations.is_some_and(|a| a.contains_key("kubernetes.io/config.source"));
        let error = "services have not yet been read at least once, cannot construct envvars";
        return if own { Ok(BTreeMap::new()) } else { Err(error.into()) };
    };
    let mut env = BTreeMap::new();
    let mut all: Vec<_> = context.objects.kubernetes.iter().collect();
    if links {
        all.extend(services);
    }
    for service in all {
        let name = service.metadata.name.as_deref().unwrap_or_default();
        let Some(spec) = &service.spec else { continue };
        let ip = spec.cluster_ip.as_deref().unwrap_or_default();
        let (Some(first), false) = (spec.ports.iter().flatten().next(), ip.is_empty() || ip == "None") else {
            continue;
        };
        let prefix = variable_name(name);
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        env.insert(format!("{prefix}_SERVICE_HOST"), ip.to_owned());
        env.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
        for port in spec.ports.iter().flatten() {
            if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
                let key = format!("{prefix}_SERVICE_PORT_{}", variable_name(name));
                env.insert(key, port.port.to_string());
            }
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let url = format!("{}://{host}:{}", protocol.to_ascii_lowercase(), port.port);
            let key = format!("{prefix}_PORT_{}_{}", port.port, protocol.to_ascii_uppercase());
            if port.port == first.port && port.protocol == first.protocol {
                env.insert(format!("{prefix}_PORT"), url.clone());
            }
            env.insert(format!("{key}_PROTO"), protocol.to_ascii_lowercase());
            env.insert(format!("{key}_PORT"), port.port.to_string());
            env.insert(format!("{key}_ADDR"), ip.to_owned());
            env.insert(key, url);
        }
    }
    Ok(env)
}

fn variable_name(name: &str) -> String {
    name.to_ascii_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(container: &str, expect: Expect) {
        let container: Container = serde_norway::from_str(container).unwrap();
        let pod: Pod = serde_norway::from_str(
            "{metadata: {name: p, namespace: ns, uid: u, labels: {app: web}}, spec: {containers: []}}",
        )
        .unwrap();
        let service: Service = serde_norway::from_str(
            "{metadata: {name: my-db}, spec: {clusterIP: 10.96.0.7, ports: [{name: sql, port: 5432, protocol: TCP}]}}",
        )
        .unwrap();
        let map = serde_norway::from_str("{data: {a: \"1\", b: two}}").unwrap();
        let secret = serde_norway::from_str("{data: {pw: eCB5}}").unwrap();
        let objects = Objects {
            config_maps: BTreeMap::from([("m".to_owned(), Arc::new(map))]),
            secrets: BTreeMap::from([("s".to_owned(), Arc::new(secret))]),
            services: Some(vec![Arc::new(service)]),
            kubernetes: None,
            files: Files::from([(("v".into(), "env".into()), "A='from a file'\nE=\n".into())]),
        };
        let settings = Settings::for_tests();
        let pod_ips = [IpAddr::from([10, 0, 0, 2])];
        let context = Context { settings: &settings, pod: &pod, pod_ips: &pod_ips, objects: &objects };
        let text = match resolve(&context, &container) {
            Ok(env) => env.iter().map(|(name, value)| format!("{name}={value}\n")).collect(),
            Err(error) => format!("error: {error}\n"),
        };
        expect.assert_eq(&text);
    }

    #[test]
    fn services_come_first() {
        check(
            "{name: c}",
            expect![[r#"
                MY_DB_PORT=tcp://10.96.0.7:5432
                MY_DB_PORT_5432_TCP=tcp://10.96.0.7:5432
                MY_DB_PORT_5432_TCP_ADDR=10.96.0.7
                MY_DB_PORT_5432_TCP_PORT=5432
                MY_DB_PORT_5432_TCP_PROTO=tcp
                MY_DB_SERVICE_HOST=10.96.0.7
                MY_DB_SERVICE_PORT=5432
                MY_DB_SERVICE_PORT_SQL=5432
            "#]],
        );
    }

    #[test]
    fn later_wins_and_sees_what_came_before() {
        check(
            "{name: c, envFrom: [{configMapRef: {name: m}}, {prefix: S_, secretRef: {name: s}}], \
             env: [{name: a, value: \"$(a)+$(later)\"}, {name: later, value: \"$(MY_DB_SERVICE_HOST)\"}, \
             {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}, \
             {name: APP, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['app']\"}}}]}",
            expect![[r#"
                MY_DB_PORT=tcp://10.96.0.7:5432
                MY_DB_PORT_5432_TCP=tcp://10.96.0.7:5432
                MY_DB_PORT_5432_TCP_ADDR=10.96.0.7
                MY_DB_PORT_5432_TCP_PORT=5432
                MY_DB_PORT_5432_TCP_PROTO=tcp
                MY_DB_SERVICE_HOST=10.96.0.7
                MY_DB_SERVICE_PORT=5432
                MY_DB_SERVICE_PORT_SQL=5432
                a=1+$(later)
                b=two
                S_pw=x y
                later=10.96.0.7
                IP=10.0.0.2
                APP=web
            "#]],
        );
    }

    #[test]
    fn variables_of_a_file() {
        let var = |rest: &str| {
            format!("{{env: [{{name: X, valueFrom: {{fileKeyRef: {{volumeName: v, {rest}}}}}}}]}}")
        };
        check(
            &var("path: env, key: A"),
            expect![[r#"
            MY_DB_PORT=tcp://10.96.0.7:5432
            MY_DB_PORT_5432_TCP=tcp://10.96.0.7:5432
            MY_DB_PORT_5432_TCP_ADDR=10.96.0.7
            MY_DB_PORT_5432_TCP_PORT=5432
            MY_DB_PORT_5432_TCP_PROTO=tcp
            MY_DB_SERVICE_HOST=10.96.0.7
            MY_DB_SERVICE_PORT=5432
            MY_DB_SERVICE_PORT_SQL=5432
            X=from a file
        "#]],
        );
        check(
            &var("path: env, key: E"),
            expect![[r#"
            error: environment variable key "E" not found in file
        "#]],
        );
        check(
            &var("path: env, key: none"),
            expect![[r#"
            error: environment variable key "none" not found in file
        "#]],
        );
        check(
            &var("path: env, key: none, optional: true"),
            expect![[r#"
            MY_DB_PORT=tcp://10.96.0.7:5432
            MY_DB_PORT_5432_TCP=tcp://10.96.0.7:5432
            MY_DB_PORT_5432_TCP_ADDR=10.96.0.7
            MY_DB_PORT_5432_TCP_PORT=5432
            MY_DB_PORT_5432_TCP_PROTO=tcp
            MY_DB_SERVICE_HOST=10.96.0.7
            MY_DB_SERVICE_PORT=5432
            MY_DB_SERVICE_PORT_SQL=5432
        "#]],
        );
        check(
            &var("path: none, key: A"),
            expect![[r#"
            error: couldn't parse env file
        "#]],
        );
        check(
            &var("path: none, key: A, optional: true"),
            expect![[r#"
            MY_DB_PORT=tcp://10.96.0.7:5432
            MY_DB_PORT_5432_TCP=tcp://10.96.0.7:5432
            MY_DB_PORT_5432_TCP_ADDR=10.96.0.7
            MY_DB_PORT_5432_TCP_PORT=5432
            MY_DB_PORT_5432_TCP_PROTO=tcp
            MY_DB_SERVICE_HOST=10.96.0.7
            MY_DB_SERVICE_PORT=5432
            MY_DB_SERVICE_PORT_SQL=5432
        "#]],
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = |source: &str, expect: Expect| {
            check(&format!("{{name: c, env: [{{name: X, valueFrom: {source}}}]}}"), expect);
        };
        error("{configMapKeyRef: {name: nope, key: k}}", expect![["error: configmap \"nope\" not found\n"]]);
        error("{secretKeyRef: {name: s, key: k}}", expect![["error: couldn't find key k in Secret ns/s\n"]]);
        check(
            "{name: c, envFrom: [{secretRef: {name: nope}}]}",
            expect![["error: secret \"nope\" not found\n"]],
        );
    }
}
