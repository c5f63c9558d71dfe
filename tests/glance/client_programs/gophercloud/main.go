// What gophercloud can do at an image endpoint: as client_operations.py, with the same argument.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/gophercloud/gophercloud"
	"github.com/gophercloud/gophercloud/openstack"
	"github.com/gophercloud/gophercloud/openstack/imageservice/v2/imagedata"
	"github.com/gophercloud/gophercloud/openstack/imageservice/v2/images"
)

type program struct {
	spec   map[string]string
	client *gophercloud.ServiceClient
}

// listed expects the image among (or, if only is set, as the only one of) what these options list.
func (p program) listed(options images.ListOpts, only bool) error {
	pages, err := images.List(p.client, options).AllPages()
	if err != nil {
		return err
	}
	found, err := images.ExtractImages(pages)
	if err != nil {
		return err
	}
	if only && len(found) != 1 {
		return fmt.Errorf("%d images", len(found))
	}
	for _, image := range found {
		if image.ID == p.spec["id"] {
			return nil
		}
	}
	return errors.New("not listed")
}

func (p program) show() error {
	image, err := images.Get(p.client, p.spec["id"]).Extract()
	if err == nil && image.ID != p.spec["id"] {
		err = errors.New("another image")
	}
	return err
}

func (p program) absent() error {
	_, err := images.Get(p.client, p.spec["absent"]).Extract()
	if _, ok := err.(gophercloud.ErrDefault404); !ok {
		return fmt.Errorf("no 404: %v", err)
	}
	return nil
}

func (p program) download() error {
	reader, err := imagedata.Download(p.client, p.spec["id"]).Extract()
	if err != nil {
		return err
	}
	got, err := io.ReadAll(reader)
	if err != nil {
		return err
	}
	want, err := os.ReadFile(p.spec["source"])
	if err == nil && !bytes.Equal(got, want) {
		err = errors.New("other bytes")
	}
	return err
}

func (p program) create() error {
	record := images.CreateOpts{Name: p.spec["new"], DiskFormat: "raw", ContainerFormat: "bare"}
	image, err := images.Create(p.client, record).Extract()
	if err != nil {
		return err
	}
	source, err := os.Open(p.spec["source"])
	if err != nil {
		return err
	}
	defer source.Close()
	return imagedata.Upload(p.client, image.ID, source).ExtractErr()
}

func (p program) change() error {
	change := images.UpdateImageProperty{Op: images.AddOp, Name: "a", Value: "b"}
	_, err := images.Update(p.client, p.spec["id"], images.UpdateOpts{change}).Extract()
	return err
}

func main() {
	spec := map[string]string{}
	if err := json.Unmarshal([]byte(os.Args[1]), &spec); err != nil {
		panic(err)
	}
	provider, err := openstack.AuthenticatedClient(gophercloud.AuthOptions{
		IdentityEndpoint: spec["auth_url"] + "/v3",
		Username:         spec["user"],
		Password:         spec["password"],
		TenantName:       spec["project"],
		DomainID:         "default",
	})
	if err != nil {
		panic(err)
	}
	endpoint := gophercloud.EndpointOpts{Region: spec["region"]}
	client, err := openstack.NewImageServiceV2(provider, endpoint)
	if err != nil {
		panic(err)
	}
	p := program{spec, client}
	found := map[string]string{}
	for name, do := range map[string]func() error{
		"list":     func() error { return p.listed(images.ListOpts{}, false) },
		"show":     p.show,
		"name":     func() error { return p.listed(images.ListOpts{Name: spec["name"]}, true) },
		"tagged":   func() error { return p.listed(images.ListOpts{Tags: []string{spec["tag"]}}, true) },
		"absent":   p.absent,
		"download": p.download,
		"create":   p.create,
		"change":   p.change,
		"delete":   func() error { return images.Delete(p.client, spec["victim"]).ExtractErr() },
	} {
		found[name] = ""
		if err := do(); err != nil {
			found[name] = err.Error()
		}
	}
	answer, _ := json.Marshal(found)
	fmt.Println(string(answer))
}
