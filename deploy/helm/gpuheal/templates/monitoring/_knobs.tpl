{{- /* Every knob of the rules as the texts that rules have: path → text, for durations also seconds. */}}
{{- define "gpuheal.knobs" -}}
{{- $texts := dict -}}
{{- $numbers := dict -}}
{{- $knobs := .Files.Get "files/knobs.json" | fromJsonArray -}}
{{- range $knob := $knobs -}}
{{- $value := $.Values.rules.site -}}
{{- range splitList "." $knob.path -}}
{{- $value = ternary (get (ternary $value dict (kindIs "map" $value)) .) "" (kindIs "map" $value) -}}
{{- end -}}
{{- $where := printf "rules.site.%s" $knob.path -}}
{{- if eq $knob.kind "namespace" -}}
{{- $_ := set $texts $knob.path (dict "text" $.Release.Namespace) -}}
{{- else if or (eq $knob.kind "number") (eq $knob.kind "duration") -}}
{{- $number := float64 $knob.default -}}
{{- if and (eq $knob.kind "duration") (kindIs "string" $value) (ne $value "") -}}
{{- $number = divf (include "gpuheal.milliseconds" $value | float64) 1000.0 -}}
{{- else if not (kindIs "string" $value) -}}
{{- $number = float64 $value -}}
{{- end -}}
{{- if or (lt $number (float64 (get $knob "least" | default 0))) (gt $number (float64 (get $knob "most"))) -}}
{{- fail (printf "%s: %v is outside of its limits, %v to %v%s" $where $value (get $knob "least" | default 0) (get $knob "most") (ternary " seconds" "" (eq $knob.kind "duration"))) -}}
{{- end -}}
{{- $_ := set $numbers $knob.path $number -}}
{{- if eq $knob.kind "duration" -}}
{{- $_ := set $texts $knob.path (dict "text" (include "gpuheal.duration" $number) "seconds" (printf "%.12g" $number)) -}}
{{- else -}}
{{- $_ := set $texts $knob.path (dict "text" (printf "%.12g" $number)) -}}
{{- end -}}
{{- else -}}
{{- $text := $value | default $knob.default -}}
{{- if eq $knob.kind "address" }}{{ $text = trimSuffix "/" $text }}{{ end -}}
{{- if eq $knob.kind "pattern" }}{{ $text = replace "\\" "\\\\" $text }}{{ end -}}
{{- $_ := set $texts $knob.path (dict "text" $text) -}}
{{- end -}}
{{- end -}}
{{- range $knob := $knobs -}}
{{- range $other := compact (list (get $knob "below") (get $knob "within")) -}}
{{- if ge (index $numbers $knob.path) (index $numbers $other) -}}
{{- fail (printf "rules.site.%s: must be less than rules.site.%s; %s is not less than %s" $knob.path $other (index $texts $knob.path "text") (index $texts $other "text")) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{ toJson $texts }}
{{- end }}

{{- define "gpuheal.milliseconds" -}}
{{- $sizes := dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000 -}}
{{- $sum := 0 -}}
{{- range regexFindAll "[0-9]+(ms|s|m|h|d)" . -1 -}}
{{- $sum = add $sum (mul (regexFind "[0-9]+" . | int64) (index $sizes (regexFind "[a-z]+" .))) -}}
{{- end -}}
{{ $sum }}
{{- end }}

{{- /* The shortest Prometheus duration of a number of seconds, such as 1h30m. */}}
{{- define "gpuheal.duration" -}}
{{- $left := round (mulf . 1000.0) 0 | int64 -}}
{{- $text := "" -}}
{{- range $unit := list "d" "h" "m" "s" "ms" -}}
{{- $size := index (dict "ms" 1 "s" 1000 "m" 60000 "h" 3600000 "d" 86400000) $unit | int64 -}}
{{- if ge $left $size -}}
{{- $text = printf "%s%d%s" $text (div $left $size) $unit -}}
{{- $left = mod $left $size -}}
{{- end -}}
{{- end -}}
{{ $text | default "0s" }}
{{- end }}
