{{/* Names are fixed: there is one gpuheal per cluster, and admission policies bind its accounts by name. */}}
{{- define "gpuheal.labels" -}}
{app.kubernetes.io/name: gpuheal, app.kubernetes.io/component: {{ . }}}
{{- end }}

{{- define "gpuheal.image" -}}
{{- $image := index . 0 -}}
{{- $image.repository }}{{ if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default (index . 1).Chart.AppVersion }}{{ end }}
{{- end }}

{{/* YAML of a value on one line. */}}
{{- define "gpuheal.line" -}}
{{ toJson . }}
{{- end }}

{{- define "gpuheal.policyFiles" -}}
{{- $files := dict -}}
{{- with .Values.policies.profile -}}
{{- $text := $.Files.Get (printf "files/policies/%s.yaml" .) -}}
{{- if not $text }}{{ fail (printf "policies.profile: there is no profile %q" .) }}{{ end -}}
{{- $_ := set $files "policies.yaml" ($text | replace "mode: observe" (printf "mode: %s" $.Values.mode)) -}}
{{- end -}}
{{- range $name, $text := .Values.policies.files -}}
{{- if has $name (list "settings.yaml" "policies.yaml") }}{{ fail (printf "policies.files: %s is a file of the chart, choose another name" $name) }}{{ end -}}
{{- $_ := set $files $name $text -}}
{{- end -}}
{{- if not $files }}{{ fail "policies: choose a profile or give a file of your own" }}{{ end -}}
{{ toYaml $files }}
{{- end }}

{{- define "gpuheal.settings" -}}
{{- $listen := dict "webhook_token_files" (list "/etc/gpuheal-secrets/token") "metrics_token_files" (list "/etc/gpuheal-metrics/token") -}}
{{- $job := dict "namespace" .Values.reboot.namespace -}}
{{- with .Values.reboot.image }}{{ $_ := set $job "image" . }}{{ end -}}
{{- $ours := dict "namespace" .Release.Namespace "policies" (include "gpuheal.policyFiles" . | fromYaml | keys | sortAlpha) "listen" $listen "engine" (dict "mode" .Values.mode) "providers" (dict "job" $job) -}}
{{ toYaml (mergeOverwrite $ours (deepCopy .Values.responder.settings)) }}
{{- end }}
