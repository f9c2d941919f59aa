// Keeps the page live: takes the sections that have changed from the event stream, and makes the page like them. What is focused,
// open or scrolled to stays so, since an element that is there already is changed and not replaced. Without this script the page
// shows the same, as of when it was loaded.
'use strict';
(() => {
  const retryAfter = 30000; // milliseconds, after the host had no place for the stream
  const said = document.getElementById('said');
  const mesh = document.title.slice(document.title.lastIndexOf(' – '));
  let state = '';
  let verdict = words('verdict-title');
  let alarms = words('alarms-title');

  function words(id) {
    const element = document.getElementById(id);
    return element ? element.textContent.trim().replace(/\s+/g, ' ') : '';
  }

  // show says whether the page is live.
  function show(now) {
    state = now;
    document.body.classList.toggle('is-live', now === 'live');
    const sign = document.getElementById('live');
    if (!sign) return;
    sign.hidden = false;
    sign.textContent = now;
    sign.classList.toggle('lost', now !== 'live');
  }

  // announce says aloud what is new of the verdict and the alarms.
  function announce() {
    const nowVerdict = words('verdict-title');
    const nowAlarms = words('alarms-title');
    const news = [];
    if (nowVerdict.replace(/[\d.]+ (s|ms)\b/g, '') !== verdict.replace(/[\d.]+ (s|ms)\b/g, '')) news.push(nowVerdict);
    if (nowAlarms !== alarms) news.push(nowAlarms);
    if (news.length) said.textContent = news.join('. ');
    verdict = nowVerdict;
    alarms = nowAlarms;
    document.title = nowVerdict + mesh;
  }

  function same(a, b) {
    return a.nodeType === b.nodeType && a.nodeName === b.nodeName && (a.id || '') === (b.id || '');
  }

  // morph makes an element like another of the same kind.
  function morph(from, to) {
    if (from.nodeType !== Node.ELEMENT_NODE) {
      if (from.data !== to.data) from.data = to.data;
      return;
    }
    for (const { name } of [...from.attributes]) {
      if (!to.hasAttribute(name) && !(name === 'open' && from.nodeName === 'DETAILS')) from.removeAttribute(name);
    }
    for (const { name, value } of [...to.attributes]) {
      if (from.getAttribute(name) !== value) from.setAttribute(name, value);
    }
    let place = from.firstChild;
    for (const wanted of [...to.childNodes]) {
      let have = wanted.id ? [...from.children].find((child) => child.id === wanted.id) : place;
      if (!have || !same(have, wanted)) {
        from.insertBefore(wanted, place);
        continue;
      }
      if (have === place) place = place.nextSibling;
      else from.insertBefore(have, place);
      morph(have, wanted);
    }
    while (place) {
      const next = place.nextSibling;
      place.remove();
      place = next;
    }
  }

  function change(event) {
    const { id, html } = JSON.parse(event.data);
    const template = document.createElement('template');
    template.innerHTML = html;
    const have = document.getElementById(id);
    const wanted = template.content.firstElementChild;
    if (have && wanted) morph(have, wanted);
    if (id === 'verdict') show(state);
    if (id === 'verdict' || id === 'alarms') announce();
  }

  function open() {
    const stream = new EventSource('/page/events');
    stream.addEventListener('change', change);
    stream.addEventListener('seen', () => { if (state !== 'live') show('live'); });
    stream.addEventListener('fault', () => show('not live'));
    stream.addEventListener('error', () => {
      show('not live');
      if (stream.readyState === EventSource.CLOSED) setTimeout(open, retryAfter);
    });
  }
  open();
})();
