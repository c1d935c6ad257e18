#!/usr/bin/env python3
"""Derives protobuf-wire.txt.gz: field number -> JSON name, per type of definitions-1.34.json.gz.

Usage: derive_wire.py PATH_TO_UNPACKED_CRATE_k8s-pb-0.9 > protobuf-wire.txt.gz

Field numbers come from crate k8s-pb (Apache-2.0), JSON names from the OpenAPI definitions: the property whose
letters and digits equal the field's. The crate knows neither pointers nor inline embeds; both are listed below.

Lines of the output:  @type | NUMBER name | NUMBER name!  (a zero is kept) | NUMBER >type  (its fields are inline)
"""
import glob, gzip, json, os, re, sys

# Pointer scalars of the stable kinds: a zero that is on the wire means something.
POINTERS = """
admissionregistration.v1: MatchResources matchPolicy; MutatingWebhook failurePolicy sideEffects timeoutSeconds matchPolicy reinvocationPolicy; ParamRef parameterNotFoundAction; ServiceReference path port; ValidatingAdmissionPolicySpec failurePolicy; ValidatingWebhook failurePolicy sideEffects timeoutSeconds matchPolicy; Validation reason; WebhookClientConfig url
apps.v1: DaemonSetSpec revisionHistoryLimit; DaemonSetStatus collisionCount; DeploymentSpec replicas revisionHistoryLimit progressDeadlineSeconds; DeploymentStatus collisionCount terminatingReplicas; ReplicaSetSpec replicas; ReplicaSetStatus terminatingReplicas; RollingUpdateStatefulSetStrategy partition; StatefulSetSpec replicas revisionHistoryLimit; StatefulSetStatus collisionCount
authentication.v1: TokenRequestSpec expirationSeconds
autoscaling.v1: HorizontalPodAutoscalerSpec minReplicas targetCPUUtilizationPercentage; HorizontalPodAutoscalerStatus observedGeneration currentCPUUtilizationPercentage
autoscaling.v2: HPAScalingRules selectPolicy stabilizationWindowSeconds; HorizontalPodAutoscalerSpec minReplicas; HorizontalPodAutoscalerStatus observedGeneration; MetricTarget averageUtilization; MetricValueStatus averageUtilization
batch.v1: CronJobSpec startingDeadlineSeconds suspend successfulJobsHistoryLimit failedJobsHistoryLimit timeZone; JobSpec parallelism completions activeDeadlineSeconds manualSelector backoffLimit ttlSecondsAfterFinished completionMode suspend backoffLimitPerIndex maxFailedIndexes podReplacementPolicy managedBy; JobStatus ready failedIndexes terminating; PodFailurePolicyOnExitCodesRequirement containerName; SuccessPolicyRule succeededIndexes succeededCount
certificates.v1: CertificateSigningRequestSpec expirationSeconds
coordination.v1: LeaseSpec holderIdentity leaseDurationSeconds leaseTransitions strategy preferredHolder
core.v1: AppArmorProfile localhostProfile; AzureDiskVolumeSource cachingMode fsType readOnly kind; AzureFilePersistentVolumeSource secretNamespace; CSIVolumeSource readOnly fsType; ClientIPConfig timeoutSeconds; ClusterTrustBundleProjection name signerName optional; ConfigMap immutable; ConfigMapEnvSource optional; ConfigMapKeySelector optional; ConfigMapProjection optional; ConfigMapVolumeSource defaultMode optional; Container restartPolicy; ContainerStatus started stopSignal; DownwardAPIVolumeFile mode; DownwardAPIVolumeSource defaultMode; EndpointAddress nodeName; EndpointPort appProtocol; FCVolumeSource lun; FileKeySelector optional; GRPCAction service; GlusterfsPersistentVolumeSource endpointsNamespace; HostPathVolumeSource type; ISCSIPersistentVolumeSource initiatorName; ISCSIVolumeSource initiatorName; KeyToPath mode; Lifecycle stopSignal; LoadBalancerIngress ipMode; LocalVolumeSource fsType; NodeFeatures supplementalGroupsPolicy; NodeRuntimeHandlerFeatures recursiveReadOnlyMounts userNamespaces; NodeSwapStatus capacity; PersistentVolumeClaimSpec storageClassName volumeMode volumeAttributesClassName; PersistentVolumeClaimStatus currentVolumeAttributesClassName; PersistentVolumeSpec volumeMode volumeAttributesClassName; PodCertificateProjection maxExpirationSeconds; PodDNSConfigOption value; PodResourceClaim resourceClaimName resourceClaimTemplateName; PodResourceClaimStatus resourceClaimName; PodSecurityContext runAsUser runAsNonRoot fsGroup runAsGroup fsGroupChangePolicy supplementalGroupsPolicy seLinuxChangePolicy; PodSpec terminationGracePeriodSeconds activeDeadlineSeconds automountServiceAccountToken priority shareProcessNamespace runtimeClassName enableServiceLinks preemptionPolicy setHostnameAsFQDN hostUsers hostnameOverride; PortStatus error; Probe terminationGracePeriodSeconds; ProjectedVolumeSource defaultMode; ReplicationControllerSpec replicas; SeccompProfile localhostProfile; Secret immutable; SecretEnvSource optional; SecretKeySelector optional; SecretProjection optional; SecretVolumeSource defaultMode optional; SecurityContext privileged runAsUser runAsNonRoot readOnlyRootFilesystem allowPrivilegeEscalation runAsGroup procMount; ServiceAccount automountServiceAccountToken; ServiceAccountTokenProjection expirationSeconds; ServicePort appProtocol; ServiceSpec ipFamilyPolicy allocateLoadBalancerNodePorts loadBalancerClass internalTrafficPolicy trafficDistribution; Toleration tolerationSeconds; TopologySpreadConstraint minDomains nodeAffinityPolicy nodeTaintsPolicy; TypedLocalObjectReference apiGroup; TypedObjectReference apiGroup namespace; VolumeMount mountPropagation recursiveReadOnly; VolumeMountStatus recursiveReadOnly; WindowsSecurityContextOptions gmsaCredentialSpecName gmsaCredentialSpec runAsUserName hostProcess
discovery.v1: Endpoint hostname nodeName zone; EndpointConditions ready serving terminating; EndpointPort name protocol port appProtocol
flowcontrol.v1: ExemptPriorityLevelConfiguration nominalConcurrencyShares lendablePercent; LimitedPriorityLevelConfiguration nominalConcurrencyShares lendablePercent borrowingLimitPercent
networking.v1: HTTPIngressPath pathType; IngressClassParametersReference apiGroup scope namespace; IngressPortStatus error; IngressSpec ingressClassName; NetworkPolicyPort protocol endPort
policy.v1: PodDisruptionBudgetSpec unhealthyPodEvictionPolicy
resource.v1: AllocatedDeviceStatus shareID; Device nodeName allNodes bindsToNode allowMultipleAllocations; DeviceAttribute int bool string version; DeviceClassSpec extendedResourceName; DeviceConstraint matchAttribute distinctAttribute; DeviceRequestAllocationResult adminAccess shareID; DeviceToleration tolerationSeconds; ExactDeviceRequest adminAccess; ResourceSliceSpec nodeName allNodes perDeviceNodeSelection
scheduling.v1: PriorityClass preemptionPolicy
storage.v1: CSIDriverSpec attachRequired podInfoOnMount storageCapacity fsGroupPolicy requiresRepublish seLinuxMount nodeAllocatableUpdatePeriodSeconds; StorageClass reclaimPolicy allowVolumeExpansion volumeBindingMode; TokenRequest expirationSeconds; VolumeAttachmentSource persistentVolumeName; VolumeError errorCode; VolumeNodeResources count
apiextensions.v1: CustomResourceDefinitionVersion deprecationWarning; CustomResourceSubresourceScale labelSelectorPath; JSONSchemaProps $ref maximum minimum maxLength minLength maxItems minItems multipleOf maxProperties minProperties x-kubernetes-preserve-unknown-fields x-kubernetes-list-type x-kubernetes-map-type; ServiceReference path port; ValidationRule reason optionalOldSelf; WebhookClientConfig url
meta.v1: DeleteOptions gracePeriodSeconds orphanDependents propagationPolicy ignoreStoreReadErrorWithClusterBreakingPotential; ListMeta remainingItemCount; ObjectMeta deletionGracePeriodSeconds; OwnerReference controller blockOwnerDeletion; Preconditions uid resourceVersion
apiregistration.v1: ServiceReference port
"""

# Nested on the wire, flat in JSON.
INLINE = """
core.v1: ConfigMapEnvSource.1 ConfigMapKeySelector.1 ConfigMapProjection.1 ConfigMapVolumeSource.1 SecretEnvSource.1 SecretKeySelector.1 SecretProjection.1 EphemeralContainer.1 PersistentVolumeSpec.2 Probe.1 Volume.2
networking.v1: IngressRule.2
networking.v1beta1: IngressRule.2
admissionregistration.v1: RuleWithOperations.2 NamedRuleWithOperations.2
admissionregistration.v1beta1: RuleWithOperations.2 NamedRuleWithOperations.2
admissionregistration.v1alpha1: RuleWithOperations.2 NamedRuleWithOperations.2
resource.v1: DeviceClassConfiguration.1 DeviceClaimConfiguration.2 DeviceAllocationConfiguration.3
resource.v1beta1: DeviceClassConfiguration.1 DeviceClaimConfiguration.2 DeviceAllocationConfiguration.3
resource.v1beta2: DeviceClassConfiguration.1 DeviceClaimConfiguration.2 DeviceAllocationConfiguration.3
"""

# Optional, yet upstream writes a zero; required, yet it does not.
KEPT = """StatefulSetSpec.serviceName StatefulSetOrdinals.start StatefulSetStatus.availableReplicas
FlowSchemaSpec.matchingPrecedence QueuingConfiguration.queues QueuingConfiguration.handSize
QueuingConfiguration.queueLengthLimit EphemeralContainerCommon.restartPolicy Rule.scope Event.reportingComponent Event.reportingInstance NodeRuntimeHandler.name"""
DROPPED = """ParentReference.resource ParentReference.name ContainerRestartRule.action
ContainerRestartRuleOnExitCodes.operator PodCertificateProjection.signerName PodCertificateProjection.keyType"""

HERE = os.path.dirname(os.path.abspath(__file__))
DEFINITIONS = json.loads(gzip.open(HERE + "/definitions-1.34.json.gz").read())["definitions"]


def plain(name):
    return re.sub("[^a-z0-9]", "", name.lower())


def rust_types(root):
    """(definition prefix, type, [(number, rust field, rust type)])"""
    for path in sorted(glob.glob(root + "/src/**/mod.rs", recursive=True)):
        parts = os.path.relpath(os.path.dirname(path), root + "/src").split(os.sep)
        prefix = "io.k8s." + ".".join([parts[0].replace("_", "-")] + parts[1:])
        text = open(path).read()
        for m in re.finditer(r"pub struct (\w+) \{\n(.*?)\n\}", text, re.S):
            fields = re.findall(r'#\[prost\([^\]]*?tag = "(\d+)"[^\]]*\)\]\s+pub (?:r#)?(\w+):\s*(.*?),\n', m[2] + "\n", re.S)
            yield prefix, m[1], [(int(n), f, t) for n, f, t in fields]


def pointers():
    for line in POINTERS.strip().splitlines():
        group, rest = line.split(": ", 1)
        for entry in rest.split("; "):
            ty, *fields = entry.split()
            for field in fields:
                yield group.split(".")[0], ty, field


def main():
    by_plain = {plain(name): name for name in DEFINITIONS}
    raw = {}
    for prefix, ty, fields in rust_types(sys.argv[1]):
        name = by_plain.get(plain(prefix + ty), prefix + "." + ty)
        raw[name] = fields
    pointer = set(pointers())
    kept, dropped = set(KEPT.split()), set(DROPPED.split())
    inline = set()
    for line in INLINE.strip().splitlines():
        group, rest = line.split(": ", 1)
        inline |= {f"io.k8s.api.{group}.{entry}" for entry in rest.split()}

    out, queue, done = [], sorted(n for n in raw if n in DEFINITIONS), set()
    # An embedded type has no definition of its own: its names are those of the types that embed it.
    owners = {}
    while queue:
        name = queue.pop(0)
        if name in done:
            continue
        done.add(name)
        props, required = {}, set()
        for owner in [name] if name in DEFINITIONS else owners[name]:
            props.update(DEFINITIONS[owner].get("properties", {}))
            required |= set(DEFINITIONS[owner].get("required", []))
        names = {plain(p): p for p in props}
        group = name.split(".")[-3] if ".apis." not in name else name.split(".")[-3]
        short = name.split(".")[-1]
        lines = []
        for number, field, rust in raw.get(name, []):
            if f"{name}.{number}" in inline:
                target = re.sub(r".*<([\w:]+)>$", r"\1", rust.replace("\n", "").replace(" ", "")).split("::")[-1]
                target = by_plain.get(plain(name.rsplit(".", 1)[0] + target), name.rsplit(".", 1)[0] + "." + target)
                owners.setdefault(target, []).append(name if name in DEFINITIONS else owners[name][0])
                if target not in done:
                    queue.append(target)
                lines.append(f"{number} >{target}")
                continue
            prop = names.get(plain(field))
            if prop is None:
                continue
            scalar = props[prop].get("type") in ("string", "integer", "boolean", "number")
            key = f"{short}.{prop}"
            keep = (group, short, prop) in pointer or key in kept or (prop in required and key not in dropped)
            lines.append(f"{number} {prop}" + ("!" if scalar and keep else ""))
        out.append("\n".join(["@" + name] + lines))
    text = "\n".join(sorted(out)) + "\n"
    sys.stdout.buffer.write(gzip.compress(text.encode(), mtime=0))


main()
