{{- define "resolver.labels" -}}
app.kubernetes.io/name: glance-resolver
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* What both roles share. Called with `role`, `root`, `replicas` (none: an autoscaler sets them), `env`, `drain`,
`resources` and `readiness` (the path of the probe). */ -}}
{{- define "resolver.deployment" -}}
{{- $name := printf "%s-%s" .root.Release.Name .role }}
{{- $secret := .root.Values.secretName | default .root.Release.Name }}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  labels:
    {{- include "resolver.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .role }}
spec:
  {{- with .replicas }}
  replicas: {{ . }}
  {{- end }}
  selector:
    matchLabels:
      {{- include "resolver.labels" .root | nindent 6 }}
      app.kubernetes.io/component: {{ .role }}
  strategy:
    rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
  template:
    metadata:
      labels:
        {{- include "resolver.labels" .root | nindent 8 }}
        app.kubernetes.io/component: {{ .role }}
      annotations:
        checksum/settings: {{ printf "%s%s" (toJson .root.Values.settings) (toJson .root.Values.locations) | sha256sum }}
    spec:
      enableServiceLinks: false  # no variables of other services
      automountServiceAccountToken: false
      {{- $shutdown := .root.Values.settings.RESOLVER_SHUTDOWN_TIMEOUT | default 10 | float64 | int }}
      terminationGracePeriodSeconds: {{ add $shutdown .drain 15 }}
      {{- with .root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        runAsNonRoot: true
        runAsUser: 10001
        runAsGroup: 10001
        fsGroup: 10001
        seccompProfile: {type: RuntimeDefault}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- include "resolver.labels" .root | nindent 14 }}
              app.kubernetes.io/component: {{ .role }}
      containers:
        - name: {{ .role }}
          image: "{{ .root.Values.image.repository }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}"
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          args: [serve]
          envFrom:
            - configMapRef: {name: {{ .root.Release.Name }}}
          env:
            - {name: RESOLVER_ROLE, value: {{ .role }}}
            {{- range .env }}
            - {name: {{ .name }}, value: {{ .value | quote }}}
            {{- end }}
          ports:
            - {name: http, containerPort: 9393}
          # Started when Redis has answered once, so that a rollout with a wrong password stops at its first
          # pod. Later Redis may be away: a restart would not bring it back.
          startupProbe:
            httpGet: {path: /readyz, port: http}
            periodSeconds: 2
            timeoutSeconds: 3
            failureThreshold: 150
          readinessProbe:
            httpGet: {path: {{ .readiness }}, port: http}
            periodSeconds: 5
            timeoutSeconds: 3
          livenessProbe:
            httpGet: {path: /livez, port: http}
            timeoutSeconds: 5
            failureThreshold: 6
          resources:
            {{- toYaml .resources | nindent 12 }}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities: {drop: [ALL]}
          volumeMounts:
            - {name: secret, mountPath: /etc/glance-resolver, readOnly: true}
            - {name: tmp, mountPath: /tmp}
            {{- if .root.Values.credentialsSecretName }}
            - {name: credentials, mountPath: /run/secrets, readOnly: true}
            {{- end }}
            {{- if .root.Values.locations }}
            - {name: locations, mountPath: /etc/glance-resolver-locations, readOnly: true}
            {{- end }}
      volumes:
        - name: secret
          secret:
            secretName: {{ $secret }}
            defaultMode: 0440
            {{- if eq .role "indexer" }}
            items: [{key: redis-url, path: redis-url}]
            {{- end }}
        - name: tmp
          emptyDir: {medium: Memory, sizeLimit: 16Mi}
        {{- if .root.Values.credentialsSecretName }}
        - name: credentials
          secret: {secretName: {{ .root.Values.credentialsSecretName }}, defaultMode: 0440}
        {{- end }}
        {{- if .root.Values.locations }}
        - name: locations
          configMap: {name: {{ .root.Release.Name }}-locations}
        {{- end }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ $name }}
  labels:
    {{- include "resolver.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .role }}
spec:
  maxUnavailable: 1
  selector:
    matchLabels:
      {{- include "resolver.labels" .root | nindent 6 }}
      app.kubernetes.io/component: {{ .role }}
{{- if .root.Values.networkPolicy.enabled }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ $name }}
  labels:
    {{- include "resolver.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .role }}
spec:
  podSelector:
    matchLabels:
      {{- include "resolver.labels" .root | nindent 6 }}
      app.kubernetes.io/component: {{ .role }}
  policyTypes: [Ingress, Egress]
  ingress:
    - ports: [{port: http}]
  egress:
    - ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
    {{- with .root.Values.networkPolicy.egressPorts }}
    - ports:
        {{- range . }}
        - {port: {{ . }}}
        {{- end }}
    {{- end }}
{{- end }}
{{- end }}
