# SPDX-License-Identifier: MIT
# bash completion for lbctl(1). Names of rules and backends are asked of the daemon.

_lbctl_names()
{
	# The names of the key $1 in what `lbctl backends` says, one a line.
	"${COMP_WORDS[0]}" "${connection[@]}" --json backends "${@:2}" 2>/dev/null |
		grep -o "\"$1\":\"[^\"]*\"" | sed 's/^[^:]*:"\(.*\)"$/\1/' | sort -u
}

_lbctl()
{
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	local commands="status backends flows drain undrain weight disable enable kill log reload upgrade
		top cluster metrics version"
	local -a connection=() words=()
	local i word IFS=$' \t\n'

	# Colons split words for completion, not for us.
	_get_comp_words_by_ref -n : cur prev words 2>/dev/null || words=("${COMP_WORDS[@]}")
	local -a said=()
	for ((i = 1; i < ${#words[@]} - 1; i++)); do
		word=${words[i]}
		case $word in
		--socket | --instance) connection+=("$word" "${words[++i]}") ;;
		--rule | --backend | --client | --carrier | --sort | --limit | --over | --deadline | \
			--every | --binary | --timeout) ((i++)) ;;
		-*) ;;
		*) said+=("$word") ;;
		esac
	done
	case $prev in
	--socket | --binary) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); return ;;
	--carrier) mapfile -t COMPREPLY < <(compgen -W "relay sockmap graft" -- "$cur"); return ;;
	--sort) mapfile -t COMPREPLY < <(compgen -W "age idle bytes rate rtt backlog" -- "$cur"); return ;;
	--deadline) mapfile -t COMPREPLY < <(compgen -W "30s 5min 1h never" -- "$cur"); return ;;
	--every) mapfile -t COMPREPLY < <(compgen -W "500ms 1s 2s 5s 10s" -- "$cur"); return ;;
	--instance | --client | --limit | --over | --timeout) return ;;
	esac
	IFS=$'\n'
	case $prev:$cur in
	--rule:*) mapfile -t COMPREPLY < <(compgen -W "$(_lbctl_names rule)" -- "$cur") ;;
	--backend:*) mapfile -t COMPREPLY < <(compgen -W "$(_lbctl_names backend)" -- "$cur") ;;
	*:-*)
		IFS=$' \t\n'
		mapfile -t COMPREPLY < <(compgen -W "--socket --instance --json --help --rule --backend
			--client --carrier --sort --limit --over --deadline --dry-run --binary --timeout --every --once" -- "$cur")
		;;
	*)
		case ${#said[@]}:${said[0]-} in
		0:*)
			IFS=$' \t\n'
			mapfile -t COMPREPLY < <(compgen -W "$commands" -- "$cur")
			;;
		1:log) mapfile -t COMPREPLY < <(compgen -W $'error\nwarn\ninfo\ndebug' -- "$cur") ;;
		1:kill) mapfile -t COMPREPLY < <(compgen -W "$("${COMP_WORDS[0]}" "${connection[@]}" \
			--json flows 2>/dev/null | grep -o '"id":"[0-9a-f]*"' | cut -d'"' -f4)" -- "$cur") ;;
		1:drain | 1:undrain | 1:weight | 1:disable | 1:enable)
			mapfile -t COMPREPLY < <(compgen -W "$(_lbctl_names rule)" -- "$cur") ;;
		2:drain | 2:undrain | 2:weight | 2:disable | 2:enable)
			mapfile -t COMPREPLY < <(compgen -W \
				"$(_lbctl_names backend --rule "${said[1]}")" -- "$cur") ;;
		esac
		;;
	esac
	declare -F __ltrim_colon_completions >/dev/null && __ltrim_colon_completions "$cur"
	return 0
}

complete -F _lbctl lbctl
