#!/bin/sh
# Inside the root: /image.tar, a container image of busybox, some real network programs and the libraries they need.
set -eu
image=$(mktemp -d)
chmod 755 "$image"
mkdir -p "$image/bin" "$image/etc/nginx" "$image/root" "$image/www" "$image/run" "$image/var/log/nginx" "$image/var/lib/nginx" "$image/tmp"
chmod 1777 "$image/tmp"
cp /usr/bin/busybox "$image/bin/"
for name in $(busybox --list); do
    [ -e "$image/bin/$name" ] || ln -s busybox "$image/bin/$name"
done
for name in socat ip ss curl nginx; do
    file=$(readlink -f "$(command -v $name)")
    rm -f "$image/bin/$name"
    cp "$file" "$image/bin/$name"
    ldd "$file" | grep -o '/[^ ]*' | while read -r library; do
        mkdir -p "$image${library%/*}"
        cp -Ln "$library" "$image$library"
    done
done
printf 'root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n' >"$image/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$image/etc/group"
echo hello >"$image/www/index.html"
cat >"$image/etc/nginx/nginx.conf" <<'CONF'
daemon off;
user root;
error_log stderr;
pid /run/nginx.pid;
events {}
http {
    access_log /dev/stdout;
    server { listen 80; listen [::]:80; root /www; }
}
CONF
tar -C "$image" -cf /image.tar .
rm -rf "$image"
