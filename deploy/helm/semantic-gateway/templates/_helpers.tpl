{{- define "gateway.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "gateway.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "gateway.labels" -}}
{{ include "gateway.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "gateway.account" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "gateway.name" .) }}
{{- else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{- /* gateway.yaml: what the chart knows, under what the operator says. */ -}}
{{- define "gateway.config" -}}
{{- $admin := printf "%s-admin" (include "gateway.name" .) }}
{{- $hosts := list $admin (printf "%s.%s" $admin .Release.Namespace) (printf "%s.%s.svc" $admin .Release.Namespace) }}
{{- $store := dict "kind" "sqlite" "path" "/data/gateway.db" }}
{{- if .Values.redis.enabled }}
{{- $store = dict "kind" "redis" "url" "${REDIS_URL}" "namespace" .Values.redis.namespace }}
{{- end }}
{{- $own := dict
      "listen" (dict "host" "0.0.0.0" "port" 8080)
      "admin" (dict "host" "0.0.0.0" "port" 8081 "token" "${GATEWAY_ADMIN_TOKEN}" "open_metrics" true "hosts" $hosts)
      "embedder" (dict "cache" "/opt/model")
      "limits" (dict "drain_seconds" .Values.drainSeconds)
      "store" $store }}
{{- if .Values.policies }}{{ $_ := set $own "policies" "/etc/gateway-policies" }}{{ end }}
{{- toYaml (mustMergeOverwrite $own (deepCopy .Values.config)) }}
{{- end }}
