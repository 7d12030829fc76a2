// Checks of a page in the browser: each returns what is wrong.
({
  // Texts of charts and blocks of the page that cover one another. Labels of detections may, as their boxes do.
  overlaps: () => {
  const found = [];
  for (const svg of document.querySelectorAll('.chart svg')) {
    const texts = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
    texts.forEach(([name, a], i) => texts.slice(0, i).forEach(([other, b]) => {
      const x = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (x > 1 && y > 4) found.push([name, other, x, y]);
    }));
  }
  const blocks = [...document.querySelectorAll('header, nav, h2, .lead, .card')].filter(e => e.offsetParent);
  const boxes = blocks.map(e => [e.tagName + ' ' + e.textContent.trim().slice(0, 30), e, e.getBoundingClientRect()]);
  boxes.forEach(([name, e, a], i) => boxes.slice(0, i).forEach(([other, f, b]) => {
    if (e.contains(f) || f.contains(e)) return;
    const y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    const x = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    if (x > 1 && y > 1) found.push([name, other, x, y]);
  }));
  return found;
},

  // Elements that lie beyond the window or their card, unless they can be scrolled into view.
  cut: () => {
  const found = [], width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth > width) found.push(['page', document.documentElement.scrollWidth]);
  for (const e of document.querySelectorAll('main *')) {
    if (!e.getClientRects().length || e.closest('.hidden, svg, nav, pre, .scroll > *, .panels > *')) continue;
    const box = e.getBoundingClientRect();
    const outer = (e.parentElement.closest('.card') || document.documentElement).getBoundingClientRect();
    if (box.right > Math.min(outer.right, width) + 1 || box.left < -1)
      found.push([e.tagName + '.' + e.className, e.textContent.trim().slice(0, 40), box.left, box.right, outer.right]);
    if (e.scrollWidth > e.clientWidth + 1 && e.clientWidth
        && !['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && getComputedStyle(e).display !== 'inline')
      found.push(['overflow', e.tagName + '.' + e.className, e.textContent.trim().slice(0, 40), e.scrollWidth, e.clientWidth]);
  }
  return found;
},

  // Images that do not load.
  images: async () => {
  const uris = [...document.querySelectorAll('img, image')].map(e => e.getAttribute('src') || e.getAttribute('href'));
  const broken = [];
  for (const uri of uris) {
    const image = new Image();
    image.src = uri;
    try { await image.decode(); } catch { broken.push(uri.slice(0, 60)); }
  }
  return {count: uris.length, broken};
},
})
