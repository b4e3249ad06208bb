"""Patterns of the characters of writing systems, mostly of those without spaces between words."""

from __future__ import annotations

import re

HAN = re.compile("[\u2e80-\u2fdf\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
KANA = re.compile("[\u3041-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f]")
# Thai and Lao, Burmese, Khmer.
SOUTH_EAST_ASIAN = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")
HANGUL = re.compile("[\u1100-\u11ff\u3131-\u318e\uac00-\ud7af]")
UNSPACED = re.compile("|".join(script.pattern for script in (HAN, KANA, SOUTH_EAST_ASIAN)))
