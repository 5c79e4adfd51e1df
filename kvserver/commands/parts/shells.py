"""Completion by shells: the scripts that they load, and the words that they send and get.

Loaded where a shell asks for completions, and by `kvserver completion`. To what click has, this adds the type `part` of
completions that no space follows, and for bash keys with colons and with what a shell would read otherwise.
"""

from __future__ import annotations

import os
from typing import Any, Final

from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

COMPLETE_VARIABLE: Final = "_KVSERVER_COMPLETE"
"""Environment variable by which a shell asks."""
_MARK: Final = "\x01"
"""Follows the line, so that what precedes it is the last word, even if empty or quoted."""

_BASH: Final = """\
%(complete_func)s() {
    local response type value quoted IFS=$'\\n'
    response=$(COMP_LINE="${COMP_LINE:0:COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "$1" 2>/dev/null)
    for completion in $response; do
        IFS=',' read -r type value <<< "$completion"
        if [[ $type == dir ]]; then
            COMPREPLY=()
            compopt -o dirnames
        elif [[ $type == file ]]; then
            COMPREPLY=()
            compopt -o default
        else
            printf -v quoted '%%q' "$value"
            COMPREPLY+=("$quoted")
            [[ $type == part ]] && compopt -o nospace
        fi
    done
    return 0
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""
_ZSH: Final = """\
#compdef %(prog_name)s
%(complete_func)s() {
    local -a plain parts described response
    local type key descr
    (( ! $+commands[%(prog_name)s] )) && return 1
    response=("${(@f)$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT-1)) \\
        %(complete_var)s=zsh_complete %(prog_name)s 2>/dev/null)}")
    for type key descr in ${response}; do
        if [[ "$type" == part ]]; then
            parts+=("$key")
        elif [[ "$type" == dir ]]; then
            _path_files -/
        elif [[ "$type" == file ]]; then
            _path_files -f
        elif [[ "$descr" == _ ]]; then
            plain+=("$key")
        else
            described+=("$key":"$descr")
        fi
    done
    [ -n "$described" ] && _describe -V unsorted described -U
    [ -n "$plain" ] && compadd -U -V unsorted -a plain
    [ -n "$parts" ] && compadd -U -S '' -V unsorted -a parts
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""
_FISH: Final = """\
function %(complete_func)s
    set -l response (env %(complete_var)s=fish_complete COMP_WORDS=(commandline -cp) \\
        COMP_CWORD=(commandline -t) %(prog_name)s 2>/dev/null)
    for completion in $response
        set -l metadata (string split -m 1 "," $completion)
        switch $metadata[1]
            case dir
                __fish_complete_directories $metadata[2]
            case file
                __fish_complete_path $metadata[2]
            case '*'
                echo $metadata[2]
        end
    end
end
complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""


class BashCompletion(BashComplete):
    """Completion by bash, which divides words at colons too."""

    source_template = _BASH

    def source(self) -> str:
        """Return the script."""
        return self.source_template % self.source_vars()

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the last one, without the program's, and the last one."""
        words = split_arg_string(os.environ.get("COMP_LINE", "") + _MARK)
        return words[1:-1], words[-1].removesuffix(_MARK)

    def format_completion(self, item: CompletionItem) -> str:
        """Return type and value, without the part of the word that bash keeps."""
        _, incomplete = self.get_completion_args()
        return f"{item.type},{item.value.removeprefix(kept_part(incomplete, os.environ.get('COMP_WORDBREAKS', '')))}"


class ZshCompletion(ZshComplete):
    """Completion by zsh."""

    source_template = _ZSH


class FishCompletion(FishComplete):
    """Completion by fish."""

    source_template = _FISH

    def format_completion(self, item: CompletionItem) -> str:
        """Return type and value."""
        return f"{item.type},{item.value}"


SHELLS: Final[dict[str, Any]] = {"bash": BashCompletion, "zsh": ZshCompletion, "fish": FishCompletion}
"""Completion by the name of a shell."""


def kept_part(word: str, breaks: str) -> str:
    """Return the part of a word that bash keeps, as it divides words at the characters of `breaks`."""
    ends = [word.rfind(letter) for letter in ":=" if letter in breaks]
    return word[: max(ends, default=-1) + 1]


def register_shells() -> None:
    """Have click use these classes."""
    for shell in SHELLS.values():
        add_completion_class(shell)
