#!/bin/sh
# Fetch the vendored front-end parts again, at the versions pinned here, from npm.
# Run it only to change a version; everything it writes is committed, so that a
# running Conductor loads nothing from elsewhere. To add an icon, add its name to
# scripts/icons.txt (names: tabler.io/icons) and run this again.
set -eu

TABLER=1.6.1
HTMX=2.0.11
ICONS=3.51.0
INTER=5.3.0
SWAGGER=5.35.0

root=$(cd "$(dirname "$0")/.." && pwd)
vendor=$root/static/vendor
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

fetch() { # package version -> $work/<name>/package
    mkdir -p "$work/$3"
    (cd "$work/$3" && npm pack --silent "$1@$2" >/dev/null && tar xzf ./*.tgz)
}

fetch @tabler/core "$TABLER" tabler
fetch htmx.org "$HTMX" htmx
fetch @tabler/icons "$ICONS" icons
fetch @fontsource-variable/inter "$INTER" inter
fetch swagger-ui-dist "$SWAGGER" swagger

rm -rf "$vendor"/tabler-[0-9]* "$vendor"/htmx-* "$vendor"/tabler-icons-* "$vendor"/inter-* "$vendor"/swagger-ui-*
mkdir -p "$vendor/tabler-$TABLER" "$vendor/htmx-$HTMX" "$vendor/tabler-icons-$ICONS" "$vendor/inter-$INTER" "$vendor/swagger-ui-$SWAGGER"

# Source maps are not vendored, so neither are the comments that point at them.
sed '/^\/\*# sourceMappingURL=/d' "$work/tabler/package/dist/css/tabler.min.css" >"$vendor/tabler-$TABLER/tabler.min.css"
# The package carries no licence file; its banner names the holders of this MIT text.
{
    sed -n "/^ \* Copyright/s/^ \* //p" "$vendor/tabler-$TABLER/tabler.min.css" | head -2
    sed "1,/^Copyright/d" "$work/icons/package/LICENSE"
} >"$vendor/tabler-$TABLER/LICENSE"
cp "$work/htmx/package/dist/htmx.min.js" "$work/htmx/package/LICENSE" "$vendor/htmx-$HTMX/"
cp "$work/inter/package/files/inter-latin-wght-normal.woff2" "$work/inter/package/files/inter-latin-ext-wght-normal.woff2" "$work/inter/package/LICENSE" "$vendor/inter-$INTER/"
for file in swagger-ui-bundle.js swagger-ui.css; do
    sed -E '/^\/[/*]# sourceMappingURL=/d' "$work/swagger/package/$file" >"$vendor/swagger-ui-$SWAGGER/$file"
done
cp "$work/swagger/package/LICENSE" "$work/swagger/package/NOTICE" "$work/swagger/package/swagger-ui-bundle.js.LICENSE.txt" "$vendor/swagger-ui-$SWAGGER/"
cp "$work/icons/package/LICENSE" "$vendor/tabler-icons-$ICONS/"

# One sprite of the icons in use: <symbol id="name">.
{
    printf '<svg xmlns="http://www.w3.org/2000/svg">\n'
    while read -r name; do
        [ -n "$name" ] || continue
        printf '<symbol id="%s" viewBox="0 0 24 24">' "$name"
        tr '\n' ' ' <"$work/icons/package/icons/outline/$name.svg" |
            sed -e 's/<!--.*-->//' -e 's/.*<svg[^>]*>//' -e 's/<\/svg>.*//' -e 's/  */ /g'
        printf '</symbol>\n'
    done <"$root/scripts/icons.txt"
    printf '</svg>\n'
} >"$vendor/tabler-icons-$ICONS/sprite.svg"
