// Browsers start no worker from a file on disk. The search then runs in a hidden frame.
if (location.protocol === 'file:') {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement('iframe');
      frame.hidden = true;
      this.ready = new Promise(resolve => { frame.onload = () => resolve(frame.contentWindow); });
      frame.srcdoc = `<script>
        postMessage = data => frameElement.worker.dispatchEvent(new MessageEvent('message', {data}));
        importScripts = (...urls) => Promise.all(urls.map(url => new Promise(resolve => {
          const script = document.createElement('script');
          Object.assign(script, {src: url, onload: resolve});
          document.head.append(script);
        })));
      </script><script src="${url}"></script>`;
      frame.worker = this;
      document.documentElement.append(frame);
    }

    postMessage(data) {
      this.ready.then(frame => frame.dispatchEvent(new frame.MessageEvent('message', {data})));
    }
  };
}
